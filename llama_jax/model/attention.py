"""Grouped-query self-attention: projections, rotation, cache, kernel.

Ainslie et al. 2023, https://arxiv.org/abs/2305.13245
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask
from llama_jax.model import rope, split_attention
from llama_jax.model.cache import KVCache
from llama_jax.model.linear import Linear
from llama_jax.sharding.layout import Layout


class Attention(nnx.Module):
    """o(attention(rotate(q(x)), rotate(k(x)), v(x)))."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        layout: Layout | None,
        lora: LoraConfig,
        rngs: nnx.Rngs,
    ):
        D = (config.embed,)
        q_heads, kv_heads = (config.heads, config.head_dim), (config.kv_heads, config.head_dim)
        linear = partial(
            Linear,
            std=config.init_std,
            dtype=jnp.dtype(compute.param_dtype),
            bias=config.attention_bias,
            layout=layout,
            lora=lora,
            rngs=rngs,
        )
        self.q = linear(D, q_heads, "attention/q/kernel")
        self.k = linear(D, kv_heads, "attention/k/kernel")
        self.v = linear(D, kv_heads, "attention/v/kernel")
        self.o = linear(q_heads, D, "attention/o/kernel")
        self.compute, self.layout = compute, layout

    def __call__(
        self,
        x_BTD: jax.Array,
        cos_sin: tuple[jax.Array, jax.Array],
        mask: Mask,
        cache: KVCache | None = None,
        layer: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Returns [B, T, D], and the cache with this layer's new keys; `key` is of adapters."""
        q_BTNH = rope.rotate(self.q(x_BTD, key), *cos_sin)
        k_BSKH, v_BSKH = rope.rotate(self.k(x_BTD, key), *cos_sin), self.v(x_BTD, key)
        if cache is None:
            return self.o(self._attend(q_BTNH, k_BSKH, v_BSKH, mask), key), None
        assert layer is not None and self.layout is None
        cache = cache.write(layer, k_BSKH, v_BSKH)
        impl, chunk = self.compute.attention, self.compute.attention_chunk
        keys, values = cache.k_LBSKH, cache.v_LBSKH
        return self.o(api.cached(q_BTNH, keys, values, layer, mask, impl, chunk)), cache

    def _attend(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask
    ) -> jax.Array:
        if self.layout is not None:
            return split_attention.attention(
                self.layout, self.compute, q_BTNH, k_BSKH, v_BSKH, mask
            )
        impl, chunk = self.compute.attention, self.compute.attention_chunk
        return api.attention(q_BTNH, k_BSKH, v_BSKH, mask, impl, chunk)


def prepare(
    config: ModelConfig,
    compute: ComputeConfig,
    layout: Layout | None,
    mask: Mask,
    token_BT: jax.Array,
    slots: int | None,
) -> Mask:
    """Returns the mask with what all layers share; `slots` is the size of a cache, if there is."""
    B, T = token_BT.shape
    N, K, H = config.heads, config.kv_heads, config.head_dim
    itemsize = jnp.dtype(compute.dtype).itemsize
    shape = api.Shape(B, T, slots or T, N, K, H, itemsize)
    if layout is None:
        impl = compute.attention if slots is None else api.over_cache(compute.attention, T)
        return api.prepare(mask, impl, shape)
    return split_attention.prepare(layout, compute, mask, shape)
