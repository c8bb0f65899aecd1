"""Attention of a sequence that is split over devices: heads are dealt out instead of tokens.

B batch, T this device's tokens, S all tokens, N query heads, K key heads, H head size, P devices.

Every device gets all tokens of N / P query heads and K / P key heads, attends with them, and gives
the outputs back (Jacobs et al. 2023, https://arxiv.org/abs/2309.14509):

    tokens 0..T-1 of heads 0 1 2 3       all tokens of head 0
    tokens T..2T-1 of heads 0 1 2 3  <>  all tokens of head 1  ...

Per device B T (2 N + 2 K) H (P - 1) / P numbers arrive. Key heads that P does not divide are copied
first. Runs inside shard_map. The mask's segments
and indices are those of this device's tokens.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from llama_jax.kernels.attention import api, gather
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
    copies = key_copies(q_BTNH.shape[2], k_BTKH.shape[2], lax.axis_size(axis))
    k_BTKH, v_BTKH = (jnp.repeat(x, copies, axis=2) for x in (k_BTKH, v_BTKH))
    deal = partial(lax.all_to_all, axis_name=axis, split_axis=2, concat_axis=1, tiled=True)
    q_BSNH, k_BSKH, v_BSKH = deal(q_BTNH), deal(k_BTKH), deal(v_BTKH)
    out_BSNH = api.attention(
        q_BSNH, k_BSKH, v_BSKH, _all_tokens(mask, axis), impl, chunk, device_kind
    )
    return lax.all_to_all(out_BSNH, axis, split_axis=1, concat_axis=2, tiled=True)


def key_copies(N: int, K: int, size: int) -> int:
    """Returns how often each key head is needed so that `size` devices get equal parts.

    Raises:
        ValueError: The heads cannot be dealt out.
    """
    copies = size // math.gcd(K, size)
    if N % size or N % (K * copies):
        raise ValueError(
            f"{N} query heads and {K} key heads cannot be dealt out to {size} devices: the "
            "devices must divide the query heads, and copied key heads share them evenly."
        )
    return copies


def prepare(mask: Mask, shape: api.Shape, *, axis: Axis, impl: str, device_kind: str) -> Mask:
    """Returns the mask with what the kernel can work out before; `shape` is one device's part."""
    size = lax.axis_size(axis)
    K = shape.K * key_copies(shape.N, shape.K, size)
    whole = dataclasses.replace(
        shape, T=shape.T * size, S=shape.S * size, N=shape.N // size, K=K // size
    )
    plan = api.prepare(_all_tokens(mask, axis), impl, whole, device_kind).plan
    return dataclasses.replace(mask, plan=plan)


def _all_tokens(mask: Mask, axis: Axis) -> Mask:
    """Returns the mask of all queries and all keys, in the order of the devices."""
    whole = gather.whole_mask(mask, axis)
    return dataclasses.replace(whole, q_segment_BT=whole.k_segment_BS, q_index_T=whole.k_index_S)
