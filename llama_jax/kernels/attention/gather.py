"""Attention of a sequence that is split over devices: every device gathers all keys and values.

B batch, T this device's queries, S all keys, N query heads, K key heads, H head size.

One call of the kernel per layer; 2 B S K H numbers arrive per device, and as many gradients leave.
Runs inside shard_map. The mask's segments and indices are those of this device's tokens.
"""

import dataclasses
from functools import partial

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
) -> jax.Array:
    """Returns this device's part of the attention over the whole sequence, [B, T, N, H]."""
    gather = partial(lax.all_gather, axis_name=axis, tiled=True)
    segment_BS = None if mask.k_segment_BS is None else gather(mask.k_segment_BS, axis=1)
    assert mask.k_index_S is not None
    whole = dataclasses.replace(
        mask, k_segment_BS=segment_BS, k_index_S=gather(mask.k_index_S, axis=0)
    )
    k_BSKH, v_BSKH = gather(k_BTKH, axis=1), gather(v_BTKH, axis=1)
    return api.attention(q_BTNH, k_BSKH, v_BSKH, whole, impl, chunk)
