"""Attention on a mesh: each device attends with its heads, in its rows, for its part of each row.

Dimensions: B batch, T tokens, N query heads, K key/value heads, H head size.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from llama_jax.config.model import ComputeConfig
from llama_jax.kernels.attention import api, gather, ring
from llama_jax.kernels.attention.mask import Mask
from llama_jax.sharding import zigzag
from llama_jax.sharding.layout import Layout


def attention(
    layout: Layout,
    compute: ComputeConfig,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    mask: Mask,
) -> jax.Array:
    """Returns attention as [B, T, N, H], split as its inputs are.

    Where `sequence` is split, tokens are in zigzag order, and key heads that are fewer than the
    parts of the mesh are copied to the devices whose query heads share them.
    """
    if (copies := layout.ways("kv_heads") // k_BTKH.shape[2]) > 1:
        k_BTKH, v_BTKH = (jnp.repeat(x, copies, axis=2) for x in (k_BTKH, v_BTKH))
    if layout.ways("sequence") > 1:
        mask = _with_indices(mask, q_BTNH.shape[1], layout.ways("sequence"))
    queries = layout.spec("batch", "sequence", "heads", None)
    keys = layout.spec("batch", "sequence", "kv_heads", None)
    masks = {0: layout.spec(), 1: layout.spec("sequence"), 2: layout.spec("batch", "sequence")}
    attend = jax.shard_map(
        _local(layout, compute),
        mesh=layout.mesh,
        in_specs=(queries, keys, keys, jax.tree.map(lambda leaf: masks[jnp.ndim(leaf)], mask)),
        out_specs=queries,
        check_vma=False,  # Kernels with gradients of their own do not say over what they vary.
    )
    return attend(q_BTNH, k_BTKH, v_BTKH, mask)


def _local(layout: Layout, compute: ComputeConfig):
    """Returns the function that one device runs on its parts."""
    axis, chunk = layout.axes("sequence"), compute.attention_chunk
    if layout.ways("sequence") == 1:
        return partial(api.attention, impl=compute.attention, chunk=chunk)
    if compute.context_parallel == "ring":
        assert compute.attention == "chunked"
        return partial(ring.attention, axis, chunk)
    assert compute.context_parallel == "gather"
    return partial(gather.attention, axis=axis, impl=compute.attention, chunk=chunk)


def _with_indices(mask: Mask, T: int, parts: int) -> Mask:
    index_T = jnp.asarray(zigzag.order(T, parts))
    return dataclasses.replace(mask, q_index_T=index_T, k_index_S=index_T)
