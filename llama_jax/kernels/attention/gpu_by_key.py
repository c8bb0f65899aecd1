"""What the Hopper kernels that go by keys share: their own keys, the queries fetched, the weights.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
C keys of one warpgroup, P queries of a tile, L lines.

A block owns 128 keys of one key head, 64 for each of two warpgroups, and goes through the tiles of
queries of all G query heads that share it. Scores are transposed, [C, P], so that both factors of
dk and dv come from registers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama_jax.kernels.attention.gpu_block import Place, over_columns, over_rows, where_seen
from llama_jax.kernels.attention.gpu_call import barrier, copy, numbers, operand, wait_until_free
from llama_jax.kernels.attention.gpu_tile import Hardware
from llama_jax.kernels.attention.gpu_tiles import ROWS, WARPGROUPS, Setup


def scratch(setup: Setup, L: int, H: int, half: Any, swizzle: int = 128) -> dict[str, Any]:
    """Returns the shared memory; keys and queries may be of a finer grain than 64 columns."""
    P, stages = setup.dkv.queries, setup.dkv.stages
    return {
        "k_tiles": operand(WARPGROUPS, ROWS, H, dtype=half, swizzle=swizzle),
        "v_tiles": operand(WARPGROUPS, ROWS, H, dtype=half),
        "q_ring": operand(stages, P, H, dtype=half, swizzle=swizzle),
        "grad_ring": operand(stages, P, H, dtype=half),
        "log_sum_ring": numbers(stages, P),
        "shared_ring": numbers(stages, P),
        "line_ring": numbers(stages, L, P, dtype=jnp.int32),
        "k_line_tiles": numbers(WARPGROUPS, 2, ROWS, dtype=jnp.int32),
        "own_here": barrier(WARPGROUPS, arrivals=3),
        "q_here": barrier(stages, arrivals=3),
        "grad_here": barrier(stages, arrivals=2),
        "q_free": barrier(stages, arrivals=WARPGROUPS),
        "grad_free": barrier(stages, arrivals=WARPGROUPS),
    }


def own_keys(place: Place, warpgroup: jax.Array, refs: Any) -> Any:
    """Returns which 64 keys a warpgroup owns; starts to fetch them, with values and lines."""
    keys = pl.ds((place.own * WARPGROUPS + warpgroup) * ROWS, ROWS)
    here = refs.own_here.at[warpgroup]
    copy(refs.k.at[place.row, keys, place.head], refs.k_tiles.at[warpgroup], here)
    copy(refs.v.at[place.row, keys, place.head], refs.v_tiles.at[warpgroup], here)
    lines = refs.k_lines.at[place.shared(refs.k_lines), :, keys]
    copy(lines, refs.k_line_tiles.at[warpgroup], here)
    return keys


def queries_of(place: Place, G: int, P: int, step: jax.Array) -> tuple[jax.Array, Any]:
    """Returns the head and the queries of a step: all heads' whole tiles come first."""
    first = jnp.where(step < G * place.whole, 0, place.whole)
    size = jnp.where(step < G * place.whole, place.whole, place.count - place.whole)
    index = step - G * first
    tile = place.tile(first + lax.rem(index, size))
    return place.head * G + lax.div(index, size), pl.ds(tile * P, P)


def fetch_queries(setup: Setup, G: int, place: Place, refs: Any) -> None:
    """Fetches queries and gradients of all visits, of all heads that share the key head."""
    stages, row = setup.dkv.stages, place.row

    @pl.loop(0, G * place.count)
    def _visit(step):
        stage = lax.rem(step, jnp.int32(stages))
        head, queries = queries_of(place, G, setup.dkv.queries, step)
        lines = refs.q_lines.at[place.shared(refs.q_lines), :, queries]
        q_here, grad_here = refs.q_here.at[stage], refs.grad_here.at[stage]
        is_used = step >= stages
        pl.when(is_used)(lambda: plgpu.barrier_wait(refs.q_free.at[stage]))
        copy(refs.q.at[row, queries, head], refs.q_ring.at[stage], q_here)
        copy(refs.log_sum.at[row, head, queries], refs.log_sum_ring.at[stage], q_here)
        copy(lines, refs.line_ring.at[stage], q_here)
        pl.when(is_used)(lambda: plgpu.barrier_wait(refs.grad_free.at[stage]))
        copy(refs.grad.at[row, queries, head], refs.grad_ring.at[stage], grad_here)
        copy(refs.shared.at[row, head, queries], refs.shared_ring.at[stage], grad_here)

    wait_until_free(G * place.count, stages, refs.q_free, refs.grad_free)


def weights(
    ops: Hardware, refs: Any, warpgroup: jax.Array, stage: jax.Array, scale: float, masked: bool
) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that makes weights of the scores [C, P] of a stage's queries."""
    k_lines, q_lines = refs.k_line_tiles.at[warpgroup], refs.line_ring.at[stage]

    def weigh(score_CP: jax.Array) -> jax.Array:
        shape = score_CP.shape
        if masked:
            score_CP = where_seen(
                score_CP,
                lambda line: over_rows(ops.columns(q_lines.at[line]), shape),
                lambda line: over_columns(ops.rows(k_lines.at[line]), shape),
                lines=q_lines.shape[0],
            )
        log_sum_CP = over_rows(ops.columns(refs.log_sum_ring.at[stage]), shape)
        return jnp.exp2(score_CP * scale - log_sum_CP)

    return weigh
