"""Attention of a sequence that is split over devices: every device gathers all keys and values.

B batch, T this device's queries, S all keys, N query heads, K key heads, H head size.

One call of the kernel per layer; 2 B S K H numbers arrive per device, and as many gradients leave.
Runs inside shard_map. The mask's segments and indices are those of this device's tokens.
"""

import dataclasses

import jax
from jax import lax

from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask

Axis = tuple[str, ...]


def attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    mask: Mask,
    *,
    axis: Axis,
    impl: str,
    chunk: int,
    device_kind: str,
) -> jax.Array:
    """Returns this device's part of the attention over the whole sequence, [B, T, N, H]."""
    k_BSKH, v_BSKH = (_gather(x, axis, dim=1) for x in (k_BTKH, v_BTKH))
    mask = whole_mask(mask, axis)
    return api.attention(q_BTNH, k_BSKH, v_BSKH, mask, impl, chunk, device_kind)


def prepare(mask: Mask, shape: api.Shape, *, axis: Axis, impl: str, device_kind: str) -> Mask:
    """Returns the mask with what the kernel can work out before; `shape` is one device's part."""
    whole = dataclasses.replace(shape, S=shape.S * lax.axis_size(axis))
    plan = api.prepare(whole_mask(mask, axis), impl, whole, device_kind).plan
    return dataclasses.replace(mask, plan=plan)


def whole_mask(mask: Mask, axis: Axis) -> Mask:
    """Returns the mask of this device's queries and of all keys, in the order of the devices."""
    segment_BS = mask.k_segment_BS
    if segment_BS is not None:
        segment_BS = _gather(segment_BS, axis, dim=1)
    assert mask.k_index_S is not None
    index_S = _gather(mask.k_index_S, axis, dim=0)
    return dataclasses.replace(mask, k_segment_BS=segment_BS, k_index_S=index_S)


def _gather(x: jax.Array, axis: Axis, dim: int) -> jax.Array:
    return lax.all_gather(x, axis, axis=dim, tiled=True)
