"""The keys and values of tokens already read.

Dimensions: L layers, B batch, S slots, K key/value heads, H head size.
"""

import dataclasses

import jax
import jax.numpy as jnp

from llama_jax.config.model import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Rotated keys and values by layer and slot; slots from `length` on are not written yet."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    length: jax.Array  # i32 scalar: slots written so far, the same for every row.


def create(config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> KVCache:
    """Returns an empty cache for `batch` rows of at most `slots` tokens."""
    shape = (config.layers, batch, slots, config.kv_heads, config.head_dim)
    return KVCache(
        k_LBSKH=jnp.zeros(shape, dtype),
        v_LBSKH=jnp.zeros(shape, dtype),
        length=jnp.zeros((), jnp.int32),
    )


def write(cache_BSKH: jax.Array, new_BTKH: jax.Array, length: jax.Array) -> jax.Array:
    """Returns one layer's cache with `new_BTKH` in slots length .. length + T - 1."""
    new_BTKH = new_BTKH.astype(cache_BSKH.dtype)
    return jax.lax.dynamic_update_slice_in_dim(cache_BSKH, new_BTKH, length, axis=1)
