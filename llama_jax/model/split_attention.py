"""Attention on a mesh: each device attends with its heads, in its rows, for its part of each row.

Dimensions: B batch, T tokens, N query heads, K key/value heads, H head size.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from llama_jax.config.model import ComputeConfig
from llama_jax.kernels.attention import api, gather, ring, ulysses
from llama_jax.kernels.attention.mask import Mask
from llama_jax.sharding import zigzag
from llama_jax.sharding.layout import Layout

# How a device attends to all keys with one call of the kernel.
_METHODS = {"gather": gather, "ulysses": ulysses}


def prepare(layout: Layout, compute: ComputeConfig, mask: Mask, shape: api.Shape) -> Mask:
    """Returns the mask with the index of every token, and with what is the same in all layers.

    Args:
        layout: The mesh.
        compute: Settings.
        mask: Of whole rows, in the order in which they are stored.
        shape: Of all devices together.
    """
    parts = layout.ways("sequence")
    if parts > 1:
        index_T = jnp.asarray(zigzag.order(shape.T, parts))
        mask = dataclasses.replace(mask, q_index_T=index_T, k_index_S=index_T)
    local = _local_shape(layout, shape)
    if api.choose(compute.attention, local.T, layout.device_kind) not in api.KERNELS:
        return mask

    def plan(mask: Mask):
        if parts == 1:
            made = api.prepare(mask, compute.attention, local, layout.device_kind)
        elif compute.context_parallel == "ring":
            ring_parts = _ring_parts(layout, compute, local)
            made = ring.prepare(mask, local, axis=layout.axes("sequence"), parts=ring_parts)
        else:
            method = _METHODS[compute.context_parallel]
            made = method.prepare(mask, local, **_settings(layout, compute))
        # Each device has its own: stacked on a leading dimension.
        return jax.tree.map(lambda leaf: leaf[None], made.plan)

    plans = jax.shard_map(
        plan,
        mesh=layout.mesh,
        in_specs=(_mask_specs(layout, mask),),
        out_specs=jax.sharding.PartitionSpec(layout.token_axes),
        check_vma=False,
    )(mask)
    return dataclasses.replace(mask, plan=plans)


def attention(
    layout: Layout,
    compute: ComputeConfig,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    mask: Mask,
) -> jax.Array:
    """Returns attention as [B, T, N, H], split as its inputs are; `mask` is of `prepare`.

    Where `sequence` is split, tokens are in zigzag order, and key heads that are fewer than the
    parts of the mesh are copied to the devices whose query heads share them.
    """
    if (copies := layout.ways("kv_heads") // k_BTKH.shape[2]) > 1:
        k_BTKH, v_BTKH = (jnp.repeat(x, copies, axis=2) for x in (k_BTKH, v_BTKH))
    queries = layout.spec("batch", "sequence", "heads", None)
    keys = layout.spec("batch", "sequence", "kv_heads", None)
    mask, plans = dataclasses.replace(mask, plan=None), mask.plan
    shape = _local_shape(layout, api.shape_of(q_BTNH, k_BTKH))
    attend = _local(layout, compute, shape)

    def local(q_BTNH, k_BTKH, v_BTKH, mask: Mask, plans) -> jax.Array:
        plan = jax.tree.map(lambda leaf: leaf[0], plans)
        return attend(q_BTNH, k_BTKH, v_BTKH, dataclasses.replace(mask, plan=plan))

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(
            *(queries, keys, keys, _mask_specs(layout, mask)),
            jax.sharding.PartitionSpec(layout.token_axes),
        ),
        out_specs=queries,
        check_vma=False,  # Kernels with gradients of their own do not say over what they vary.
    )(q_BTNH, k_BTKH, v_BTKH, mask, plans)


def _local(layout: Layout, compute: ComputeConfig, shape: api.Shape):
    """Returns the function that one device runs on its parts."""
    if layout.ways("sequence") == 1:
        return partial(
            api.attention,
            impl=compute.attention,
            chunk=compute.attention_chunk,
            device_kind=layout.device_kind,
        )
    if compute.context_parallel == "ring":
        axis = layout.axes("sequence")
        return partial(ring.attention, axis, _ring_parts(layout, compute, shape))
    method = _METHODS[compute.context_parallel]
    return partial(method.attention, chunk=compute.attention_chunk, **_settings(layout, compute))


def _ring_parts(layout: Layout, compute: ComputeConfig, shape: api.Shape) -> api.Parts:
    return api.parts(compute.attention, compute.attention_chunk, shape, layout.device_kind)


def _settings(layout: Layout, compute: ComputeConfig) -> dict[str, Any]:
    axis = layout.axes("sequence")
    return {"axis": axis, "impl": compute.attention, "device_kind": layout.device_kind}


def _local_shape(layout: Layout, shape: api.Shape) -> api.Shape:
    """Returns the part of one device, key heads copied to all that need them."""
    heads = layout.ways("heads")
    rows, tokens = layout.ways("batch"), layout.ways("sequence")
    return dataclasses.replace(
        shape,
        B=shape.B // rows,
        T=shape.T // tokens,
        S=shape.S // tokens,
        N=shape.N // heads,
        K=max(shape.K // layout.ways("kv_heads"), 1),
    )


def _mask_specs(layout: Layout, mask: Mask) -> Any:
    specs = {0: layout.spec(), 1: layout.spec("sequence"), 2: layout.spec("batch", "sequence")}
    return jax.tree.map(lambda leaf: specs[jnp.ndim(leaf)], mask)
