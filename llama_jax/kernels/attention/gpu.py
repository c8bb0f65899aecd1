"""Flash attention for Hopper GPUs: the forward kernel.

B batch, T query tokens, S key tokens, N query heads, K key heads, H head size.
A block computes one tile of queries of one head: P = 64 rows for each of two warpgroups, against
tiles of C keys.

A third warpgroup fetches keys and values into a ring of stages with the tensor memory accelerator.
The other two compute in turns, so that one's exponentials run while the other multiplies
(FlashAttention-3, https://arxiv.org/abs/2407.08608). The softmax is the online one
(https://arxiv.org/abs/1805.02867) in base 2; `gpu_schedule.py` lists what a block visits.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama_jax.kernels.attention import gpu_deal
from llama_jax.kernels.attention.gpu_block import (
    Place,
    Share,
    over_columns,
    over_rows,
    padded,
    scale_of,
    visit_all,
    where_seen,
)
from llama_jax.kernels.attention.gpu_call import (
    barrier,
    call,
    copy,
    fetch_keys,
    numbers,
    operand,
    run_roles,
    store,
    wait_until_free,
)
from llama_jax.kernels.attention.gpu_tile import Hardware
from llama_jax.kernels.attention.gpu_tiles import ROWS, TURNS, WARPGROUPS, Setup, padded_head
from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.softmax import LOG2E, LOWEST_MAXIMUM


def forward(
    setup: Setup,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    dtype: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns what flash.Forward promises."""
    (B, T, N, H), K, tiles, plan = q_BTNH.shape, k_BSKH.shape[2], setup.forward, mask.plan
    width, half = padded_head(H), q_BTNH.dtype
    q_BTNH, k_BSKH, v_BSKH = (padded(x, width) for x in (q_BTNH, k_BSKH, v_BSKH))
    padded_T, padded_S, G = q_BTNH.shape[1], k_BSKH.shape[1], N // K
    lines, stages = plan.q_lines_BUT.shape[1], tiles.stages
    out_BTNH, log_sum_BNT = call(
        functools.partial(_kernel, setup, scale_of(H), G),
        "attention_forward",
        setup,
        plan.forward,
        heads=N,
        heads_together=gpu_deal.forward_heads(setup, padded_S),
        inputs={
            "q": q_BTNH,
            "k": k_BSKH,
            "v": v_BSKH,
            "q_lines": plan.q_lines_BUT,
            "k_lines": plan.k_lines_BUS,
        },
        outputs={
            "out": jax.ShapeDtypeStruct(q_BTNH.shape, dtype or half),
            "log_sum": jax.ShapeDtypeStruct((B, N, padded_T), jnp.float32),
        },
        scratch={
            "q_tiles": operand(TURNS, WARPGROUPS, ROWS, width, dtype=half),
            "k_ring": operand(stages, tiles.keys, width, dtype=half),
            "v_ring": operand(stages, tiles.keys, width, dtype=half),
            "q_line_tiles": numbers(TURNS, WARPGROUPS, lines, ROWS, dtype=jnp.int32),
            "line_ring": numbers(stages, 2, tiles.keys, dtype=jnp.int32),
            "log_sum_tiles": numbers(WARPGROUPS, ROWS),
            "q_here": barrier(TURNS, arrivals=2 * WARPGROUPS),
            "q_free": barrier(TURNS, arrivals=WARPGROUPS),
            "k_here": barrier(stages, arrivals=2),
            "v_here": barrier(stages),
            "k_free": barrier(stages, arrivals=WARPGROUPS),
            "v_free": barrier(stages, arrivals=WARPGROUPS),
            "turn": barrier(1, arrivals=WARPGROUPS),
        },
    )
    return out_BTNH[:, :T, :, :H], log_sum_BNT[:, :, :T]


def _kernel(setup: Setup, scale: float, G: int, ops: Hardware, share: Share, refs) -> None:
    """One block."""

    def compute(warpgroup):
        share.each(
            lambda place, nth, before: _compute(
                setup, scale, ops, place, warpgroup, lax.rem(nth, jnp.int32(TURNS)), before, refs
            )
        )

    run_roles(ops, compute, lambda: _fetch(setup, G, share, refs))


def _fetch(setup: Setup, G: int, share: Share, refs) -> None:
    """Fetches queries, keys and values of all items, as far ahead as there is memory."""

    def item(place, nth, before):
        turn = lax.rem(nth, jnp.int32(TURNS))
        pl.when(nth >= TURNS)(lambda: plgpu.barrier_wait(refs.q_free.at[turn]))
        for warpgroup in range(WARPGROUPS):
            queries = _queries(place, warpgroup)
            lines = refs.q_lines.at[place.shared(refs.q_lines), :, queries]
            q = refs.q.at[place.row, queries, place.head]
            copy(q, refs.q_tiles.at[turn, warpgroup], refs.q_here.at[turn])
            copy(lines, refs.q_line_tiles.at[turn, warpgroup], refs.q_here.at[turn])
        fetch_keys(setup.forward, G, place, refs, before)

    visits = share.each(item)
    wait_until_free(visits, setup.forward.stages, refs.k_free, refs.v_free)
    wait_until_free(share.count, TURNS, refs.q_free)


def _queries(place: Place, warpgroup):
    """Returns the 64 queries of a warpgroup."""
    return pl.ds((place.own * WARPGROUPS + warpgroup) * ROWS, ROWS)


def _compute(
    setup: Setup, scale: float, ops: Hardware, place: Place, warpgroup, turn, before, refs
) -> None:
    """Computes the output of 64 queries, after so many visits before."""
    stages, half = setup.forward.stages, refs.q.dtype
    q_tile, q_lines = refs.q_tiles.at[turn, warpgroup], refs.q_line_tiles.at[turn, warpgroup]
    log_sum_tile, queries = refs.log_sum_tiles.at[warpgroup], _queries(place, warpgroup)
    plgpu.barrier_wait(refs.q_here.at[turn])

    def pass_turn():
        """Both warpgroups meet here: from now on it is the other one's turn to multiply."""
        plgpu.barrier_arrive(refs.turn)
        plgpu.barrier_wait(refs.turn)

    def wait_for_keys(visit):
        stage = lax.rem(before + visit, jnp.int32(stages))
        pl.when(visit < place.count)(lambda: plgpu.barrier_wait(refs.k_here.at[stage]))

    def visit_tile(visit, sums, masked: bool):
        out_PH, max_P, sum_P = sums
        stage = lax.rem(before + visit, jnp.int32(stages))
        score_PC = ops.product(q_tile, refs.k_ring.at[stage], pass_turn)
        shape = score_PC.shape
        if masked:
            score_PC = where_seen(
                score_PC,
                lambda line: over_columns(ops.rows(q_lines.at[line]), shape),
                lambda line: over_rows(ops.columns(refs.line_ring.at[stage, line]), shape),
                lines=q_lines.shape[0],
            )
        plgpu.barrier_arrive(refs.k_free.at[stage])
        old_P, max_P = max_P, jnp.maximum(max_P, score_PC.max(axis=1) * scale)
        shrink_P = jnp.exp2(old_P - max_P)
        weight_PC = jnp.exp2(score_PC * scale - over_columns(max_P, shape))
        out_PH = out_PH * over_columns(shrink_P, out_PH.shape)
        sum_P = sum_P * shrink_P + weight_PC.sum(axis=1)
        weights = weight_PC.astype(half)
        # All of it now: the other warpgroup has the tensor cores.
        out_PH, max_P, sum_P, weights = lax.optimization_barrier((out_PH, max_P, sum_P, weights))
        plgpu.barrier_arrive(refs.turn)
        plgpu.barrier_wait(refs.v_here.at[stage])
        plgpu.barrier_wait(refs.turn)
        out_PH = ops.add_product(
            out_PH, weights, refs.v_ring.at[stage], lambda: wait_for_keys(visit + 1)
        )
        plgpu.barrier_arrive(refs.v_free.at[stage])
        return out_PH, max_P, sum_P

    wait_for_keys(0)
    pl.when(warpgroup == 1)(pass_turn)
    sums = ops.matrix(ROWS, q_tile.shape[1]), ops.vector(ROWS, LOWEST_MAXIMUM), ops.vector(ROWS, 0)
    out_PH, max_P, sum_P = visit_all(place, visit_tile, sums)
    pl.when(warpgroup == 0)(pass_turn)
    sum_P = jnp.where(sum_P == 0.0, 1.0, sum_P)
    out_PH = out_PH * over_columns(1.0 / sum_P, out_PH.shape)
    log_sum_tile[...] = max_P + jnp.log(sum_P) * LOG2E
    store(
        (out_PH, q_tile, refs.out.at[place.row, queries, place.head]),
        (None, log_sum_tile, refs.log_sum.at[place.row, place.head, queries]),
    )
    plgpu.barrier_arrive(refs.q_free.at[turn])
