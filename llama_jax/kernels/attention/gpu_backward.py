"""Flash attention for Hopper GPUs: the backward kernels.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
C keys and P queries of one tile: 64 of those that a warpgroup owns, and as many of the others.

    scores    s  = k q'            p  = 2^(s - log_sum)
    dv += p do        dp = v do'       ds = p (dp - sum(out do))
    dk += ds q        dq += ds' k

One kernel goes by keys (`gpu_by_key.py`) and makes dk and dv. The other goes by queries and makes
dq. Seven products for each tile where five would do (`gpu_fused.py`), and in return sums come in
the same order every time: the result is the same to the last bit.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama_jax.kernels.attention import gpu_by_key
from llama_jax.kernels.attention.gpu_block import (
    Place,
    backward_inputs,
    heads_together,
    over_columns,
    over_rows,
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
from llama_jax.kernels.attention.gpu_tiles import ROWS, WARPGROUPS, Setup, padded_head
from llama_jax.kernels.attention.mask import Mask


def backward(
    setup: Setup,
    q_BTNH: jax.Array,
    out_BTNH: jax.Array,
    log_sum_BNT: jax.Array,
    grad_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    dtype: Any = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what flash.Backward promises."""
    T, S, H = q_BTNH.shape[1], k_BSKH.shape[1], q_BTNH.shape[3]
    queries = q_BTNH, out_BTNH, log_sum_BNT, grad_BTNH
    arrays = backward_inputs(padded_head(H), *queries, k_BSKH, v_BSKH, mask)
    dtype = dtype or q_BTNH.dtype
    dk_BSKH, dv_BSKH = _by_key(setup, H, mask, dtype, arrays)
    (dq_BTNH,) = _by_query(setup, H, mask, dtype, arrays)
    return dq_BTNH[:, :T, :, :H], dk_BSKH[:, :S, :, :H], dv_BSKH[:, :S, :, :H]


def _by_key(setup: Setup, H: int, mask: Mask, dtype, arrays: dict) -> list[jax.Array]:
    """Returns dk and dv [B, S, K, H]."""
    (_, T, N, width), K, half = arrays["q"].shape, arrays["k"].shape[2], arrays["q"].dtype
    G, L = N // K, arrays["q_lines"].shape[1]
    return call(
        functools.partial(_by_key_kernel, setup, H, G),
        "attention_backward_dkv",
        setup,
        mask.plan.dkv,
        heads=K,
        heads_together=heads_together(K, 4 * T * G * width),
        inputs=arrays,
        outputs={name: jax.ShapeDtypeStruct(arrays["k"].shape, dtype) for name in ("dk", "dv")},
        scratch=gpu_by_key.scratch(setup, L, width, half),
    )


def _by_key_kernel(setup: Setup, H: int, G: int, ops: Hardware, place: Place, refs) -> None:
    """One block."""
    run_roles(
        ops,
        lambda warpgroup: _compute_dkv(setup, H, G, ops, place, warpgroup, refs),
        lambda: gpu_by_key.fetch_queries(setup, G, place, refs),
    )


def _compute_dkv(
    setup: Setup, H: int, G: int, ops: Hardware, place: Place, warpgroup, refs
) -> None:
    """Computes dk and dv of 64 keys."""
    stages, half, scale = setup.dkv.stages, refs.q.dtype, scale_of(H)
    k_tile, v_tile = refs.k_tiles.at[warpgroup], refs.v_tiles.at[warpgroup]
    keys = gpu_by_key.own_keys(place, warpgroup, refs)
    plgpu.barrier_wait(refs.own_here.at[warpgroup])

    def visit_tile(step, sums, masked: bool):
        dk_CH, dv_CH = sums
        stage = lax.rem(step, jnp.int32(stages))
        plgpu.barrier_wait(refs.q_here.at[stage])
        weigh = gpu_by_key.weights(ops, refs, warpgroup, stage, scale, masked)
        weight_CP = weigh(ops.product(k_tile, refs.q_ring.at[stage]))
        plgpu.barrier_wait(refs.grad_here.at[stage])
        dv_CH, dweight_CP = ops.add_product_beside(
            dv_CH, weight_CP.astype(half), refs.grad_ring.at[stage], v_tile
        )
        shared_CP = over_rows(ops.columns(refs.shared_ring.at[stage]), weight_CP.shape)
        plgpu.barrier_arrive(refs.grad_free.at[stage])
        dscore_CP = weight_CP * (dweight_CP - shared_CP)
        dk_CH = ops.add_product(dk_CH, dscore_CP.astype(half), refs.q_ring.at[stage])
        plgpu.barrier_arrive(refs.q_free.at[stage])
        return dk_CH, dv_CH

    zeros_CH = ops.matrix(ROWS, k_tile.shape[1])
    dk_CH, dv_CH = visit_all(place, visit_tile, (zeros_CH, zeros_CH), times=G)
    store(
        (dk_CH * H**-0.5, k_tile, refs.dk.at[place.row, keys, place.head]),
        (dv_CH, v_tile, refs.dv.at[place.row, keys, place.head]),
    )


def _by_query(setup: Setup, H: int, mask: Mask, dtype, arrays: dict) -> list[jax.Array]:
    """Returns dq [B, T, N, H]."""
    (_, _, N, width), (S, K), half = arrays["q"].shape, arrays["k"].shape[1:3], arrays["q"].dtype
    C, stages, G, lines = setup.dq.keys, setup.dq.stages, N // K, arrays["q_lines"].shape[1]
    return call(
        functools.partial(_by_query_kernel, setup, H, G),
        "attention_backward_dq",
        setup,
        mask.plan.dq,
        heads=N,
        heads_together=G * heads_together(K, 4 * S * width),
        inputs=arrays,
        outputs={"dq": jax.ShapeDtypeStruct(arrays["q"].shape, dtype)},
        scratch={
            "q_tiles": operand(WARPGROUPS, ROWS, width, dtype=half),
            "grad_tiles": operand(WARPGROUPS, ROWS, width, dtype=half),
            "k_ring": operand(stages, C, width, dtype=half),
            "v_ring": operand(stages, C, width, dtype=half),
            "log_sum_tiles": numbers(WARPGROUPS, ROWS),
            "shared_tiles": numbers(WARPGROUPS, ROWS),
            "q_line_tiles": numbers(WARPGROUPS, lines, ROWS, dtype=jnp.int32),
            "line_ring": numbers(stages, 2, C, dtype=jnp.int32),
            "own_here": barrier(WARPGROUPS, arrivals=5),
            "k_here": barrier(stages, arrivals=2),
            "v_here": barrier(stages),
            "k_free": barrier(stages, arrivals=WARPGROUPS),
            "v_free": barrier(stages, arrivals=WARPGROUPS),
        },
    )


def _by_query_kernel(setup: Setup, H: int, G: int, ops: Hardware, place: Place, refs) -> None:
    """One block."""
    run_roles(
        ops,
        lambda warpgroup: _compute_dq(setup, H, ops, place, warpgroup, refs),
        lambda: _fetch_keys(setup, G, place, refs),
    )


def _fetch_keys(setup: Setup, G: int, place: Place, refs) -> None:
    """Fetches keys and values of all visits."""
    fetch_keys(setup.dq, G, place, refs)
    wait_until_free(place.count, setup.dq.stages, refs.k_free, refs.v_free)


def _compute_dq(setup: Setup, H: int, ops: Hardware, place: Place, warpgroup, refs) -> None:
    """Computes dq of 64 queries."""
    row, head = place.row, place.head
    stages, half, scale = setup.dq.stages, refs.q.dtype, scale_of(H)
    tiles = refs.q_tiles, refs.grad_tiles, refs.log_sum_tiles, refs.shared_tiles, refs.q_line_tiles
    q_tile, grad_tile, log_sum_tile, shared_tile, q_lines = (x.at[warpgroup] for x in tiles)
    queries = pl.ds((place.own * WARPGROUPS + warpgroup) * ROWS, ROWS)
    here = refs.own_here.at[warpgroup]
    copy(refs.q.at[row, queries, head], q_tile, here)
    copy(refs.grad.at[row, queries, head], grad_tile, here)
    copy(refs.log_sum.at[row, head, queries], log_sum_tile, here)
    copy(refs.shared.at[row, head, queries], shared_tile, here)
    copy(refs.q_lines.at[place.shared(refs.q_lines), :, queries], q_lines, here)
    plgpu.barrier_wait(here)
    log_sum_P, shared_P = ops.rows(log_sum_tile), ops.rows(shared_tile)

    def visit_tile(visit, dq_PH, masked: bool):
        stage = lax.rem(visit, jnp.int32(stages))
        plgpu.barrier_wait(refs.k_here.at[stage])
        score_PC = ops.product(q_tile, refs.k_ring.at[stage])
        shape = score_PC.shape
        if masked:
            score_PC = where_seen(
                score_PC,
                lambda line: over_columns(ops.rows(q_lines.at[line]), shape),
                lambda line: over_rows(ops.columns(refs.line_ring.at[stage, line]), shape),
                lines=q_lines.shape[0],
            )
        weight_PC = jnp.exp2(score_PC * scale - over_columns(log_sum_P, shape))
        plgpu.barrier_wait(refs.v_here.at[stage])
        dweight_PC = ops.product(grad_tile, refs.v_ring.at[stage])
        plgpu.barrier_arrive(refs.v_free.at[stage])
        dscore_PC = weight_PC * (dweight_PC - over_columns(shared_P, shape))
        dq_PH = ops.add_product(dq_PH, dscore_PC.astype(half), refs.k_ring.at[stage])
        plgpu.barrier_arrive(refs.k_free.at[stage])
        return dq_PH

    dq_PH = visit_all(place, visit_tile, ops.matrix(ROWS, q_tile.shape[1]))
    store((dq_PH * H**-0.5, q_tile, refs.dq.at[row, queries, head]))
