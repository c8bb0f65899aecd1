"""Grouped-query self-attention: projections, rotation, cache, kernel.

Ainslie et al. 2023, https://arxiv.org/abs/2305.13245
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask
from llama_jax.model import cache as kv
from llama_jax.model import rope
from llama_jax.model.linear import Linear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotation:
    """cos and sin of the queries, f32[B, T, R], and of the keys, f32[B, S, R]; one for all layers.

    `cached` is true if keys are rotated before they are stored, as is right unless the angles
    depend on the length of the row.
    """

    q: tuple[jax.Array, jax.Array]
    k: tuple[jax.Array, jax.Array]
    cached: bool = dataclasses.field(metadata={"static": True}, default=True)


class Attention(nnx.Module):
    """o(attention(rotate(q(x)), rotate(k(x)), v(x)))."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, rngs: nnx.Rngs):
        D = (config.embed,)
        q_heads, kv_heads = (config.heads, config.head_dim), (config.kv_heads, config.head_dim)
        linear = partial(
            Linear,
            std=config.init_std,
            dtype=jnp.dtype(compute.param_dtype),
            bias=config.attention_bias,
            rngs=rngs,
        )
        self.q = linear(D, q_heads)
        self.k = linear(D, kv_heads)
        self.v = linear(D, kv_heads)
        self.o = linear(q_heads, D)
        self.impl, self.chunk = compute.attention, compute.attention_chunk

    def __call__(
        self,
        x_BTD: jax.Array,
        rotation: Rotation,
        mask: Mask,
        cache: tuple[jax.Array, jax.Array] | None = None,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Returns [B, T, D], and this layer's (keys, values) with the new ones at `length`."""
        q_BTNH = rope.rotate(self.q(x_BTD), *rotation.q)
        k_BSKH, v_BSKH = self.k(x_BTD), self.v(x_BTD)
        if rotation.cached:
            k_BSKH = rope.rotate(k_BSKH, *rotation.k)
        if cache is not None:
            assert length is not None
            k_BSKH, v_BSKH = kv.write(cache[0], k_BSKH, length), kv.write(cache[1], v_BSKH, length)
            cache = (k_BSKH, v_BSKH)
            k_BSKH, v_BSKH = k_BSKH.astype(q_BTNH.dtype), v_BSKH.astype(q_BTNH.dtype)
        if not rotation.cached:
            k_BSKH = rope.rotate(k_BSKH, *rotation.k)
        out_BTNH = api.attention(q_BTNH, k_BSKH, v_BSKH, mask, self.impl, self.chunk)
        return self.o(out_BTNH), cache
