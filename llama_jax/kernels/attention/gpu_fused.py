"""Flash attention for Hopper GPUs: the backward pass in one kernel.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
C keys of one warpgroup, P queries of a tile, W = H / 2: what one warpgroup makes of dq.

    scores    s  = k q'            p  = 2^(s - log_sum)
    dv += p do        dp = v do'       ds = p (dp - sum(out do))
    dk += ds q        dq += ds' k

The block that goes by keys (`gpu_by_key.py`) makes dq too, so a tile takes five products and not
seven. Each of two warpgroups writes ds of its 64 keys to shared memory, and makes one half of the
columns of dq from both. Each visit adds its dq, in float32, to what main memory holds: by the
tensor memory accelerator, in the order in which blocks get there. So the last bits of dq differ
from run to run; dk and dv are the same every time, as in `gpu_backward.py`.
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
    over_rows,
    scale_of,
    visit_all,
)
from llama_jax.kernels.attention.gpu_call import barrier, call, operand, run_roles, store
from llama_jax.kernels.attention.gpu_tile import Hardware
from llama_jax.kernels.attention.gpu_tiles import ROWS, WARPGROUPS, Setup, padded_head
from llama_jax.kernels.attention.mask import Mask

TURNS = 2  # Of ds in shared memory: one is written while the other is read.


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
    dk_BSKH, dv_BSKH, dq_BTN2W = _by_key(setup, H, mask, dtype, arrays)
    dq_BTNH = dq_BTN2W.reshape(arrays["q"].shape) * H**-0.5
    dq_BTNH = dq_BTNH[:, :T, :, :H].astype(dtype)
    return dq_BTNH, dk_BSKH[:, :S, :, :H], dv_BSKH[:, :S, :, :H]


def _by_key(setup: Setup, H: int, mask: Mask, dtype: Any, arrays: dict) -> list[jax.Array]:
    """Returns dk and dv [B, S, K, H], and dq f32 [B, T, N, 2, W] before it is scaled."""
    (B, T, N, width), K, half = arrays["q"].shape, arrays["k"].shape[2], arrays["q"].dtype
    P, G, L, W = setup.dkv.queries, N // K, arrays["q_lines"].shape[1], width // WARPGROUPS
    swizzle = min(128, W * half.itemsize)  # A warpgroup takes W columns of k.
    return call(
        functools.partial(_kernel, setup, H, G),
        "attention_backward_fused",
        setup,
        mask.plan.dkv,
        heads=K,
        heads_together=heads_together(K, 8 * T * G * width),
        inputs=arrays,
        sums={"dq": jnp.zeros((B, T, N, WARPGROUPS, W), jnp.float32)},
        outputs={name: jax.ShapeDtypeStruct(arrays["k"].shape, dtype) for name in ("dk", "dv")},
        scratch={
            **gpu_by_key.scratch(setup, L, width, half, swizzle),
            "dscore_tiles": operand(TURNS, WARPGROUPS, ROWS, P, dtype=half, swizzle=swizzle),
            "dq_tiles": operand(WARPGROUPS, P, W, dtype=jnp.float32),
            "dscore_here": barrier(1, arrivals=WARPGROUPS),
        },
    )


def _kernel(setup: Setup, H: int, G: int, ops: Hardware, place: Place, refs) -> None:
    """One block."""
    run_roles(
        ops,
        lambda warpgroup: _compute(setup, H, G, ops, place, warpgroup, refs),
        lambda: gpu_by_key.fetch_queries(setup, G, place, refs),
    )


def _compute(setup: Setup, H: int, G: int, ops: Hardware, place: Place, warpgroup, refs) -> None:
    """Computes dk and dv of 64 keys, and adds half of the columns of dq."""
    stages, half, scale, P = setup.dkv.stages, refs.q.dtype, scale_of(H), setup.dkv.queries
    keys = gpu_by_key.own_keys(place, warpgroup, refs)
    for other in range(WARPGROUPS):  # Both: dq is made of all keys.
        plgpu.barrier_wait(refs.own_here.at[other])
    tiles = refs.k_tiles, refs.v_tiles, refs.dq_tiles

    def visit_tile(step, sums, masked: bool):
        dk_CH, dv_CH = sums
        stage, turn = lax.rem(step, jnp.int32(stages)), lax.rem(step, jnp.int32(TURNS))
        head, queries = gpu_by_key.queries_of(place, G, P, step)
        own = _same(warpgroup, step)
        k_tile, v_tile, dq_tile = (x.at[own] for x in tiles)
        columns = pl.ds(own * dq_tile.shape[1], dq_tile.shape[1])
        plgpu.barrier_wait(refs.q_here.at[stage])
        weigh = gpu_by_key.weights(ops, refs, warpgroup, stage, scale, masked)
        weight_CP = weigh(ops.product(k_tile, refs.q_ring.at[stage]))
        plgpu.barrier_wait(refs.grad_here.at[stage])
        dv_CH, dweight_CP = ops.add_product_beside(
            dv_CH, weight_CP.astype(half), refs.grad_ring.at[stage], v_tile
        )
        shared_CP = over_rows(ops.columns(refs.shared_ring.at[stage]), weight_CP.shape)
        plgpu.barrier_arrive(refs.grad_free.at[stage])
        dscore_CP = (weight_CP * (dweight_CP - shared_CP)).astype(half)
        refs.dscore_tiles.at[turn, own][...] = dscore_CP
        plgpu.commit_smem()
        plgpu.barrier_arrive(refs.dscore_here)
        dk_CH, dq_PW = ops.add_product_then(
            dk_CH,
            dscore_CP,
            refs.q_ring.at[stage],
            lambda: plgpu.barrier_wait(refs.dscore_here),
            (refs.dscore_tiles.at[turn], refs.k_tiles.at[:, :, columns]),
        )
        plgpu.barrier_arrive(refs.q_free.at[stage])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # What was added last has been read.
        dq_tile[...] = dq_PW
        plgpu.commit_smem()
        ops.add_to(refs.dq.at[place.row, queries, head, warpgroup], dq_tile)
        return dk_CH, dv_CH

    v_tile = refs.v_tiles.at[warpgroup]
    zeros_CH = ops.matrix(ROWS, v_tile.shape[1])
    dk_CH, dv_CH = visit_all(place, visit_tile, (zeros_CH, zeros_CH), times=G)
    # Both through the tile of values: the other warpgroup may still read the keys.
    store((dk_CH * H**-0.5, v_tile, refs.dk.at[place.row, keys, place.head]))
    store((dv_CH, v_tile, refs.dv.at[place.row, keys, place.head]))


def _same(index: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the index, in a way that the compiler takes for another one at each step.

    It would work out the addresses of all operands before the loop, and keep them in 64 registers.
    """
    return index + lax.shift_right_logical(step, jnp.int32(30))
