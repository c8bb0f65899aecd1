"""The gated feed-forward block (SwiGLU, Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

import jax
import jax.numpy as jnp
from flax import nnx

from llama_jax.config.model import ModelConfig
from llama_jax.model.linear import Linear
from llama_jax.sharding.layout import Layout, constrain


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, layout: Layout | None, rngs: nnx.Rngs
    ):
        D, F, std = (config.embed,), (config.mlp,), config.init_std
        self.layout = layout
        self.gate = Linear(D, F, std=std, dtype=dtype, rngs=rngs)
        self.up = Linear(D, F, std=std, dtype=dtype, rngs=rngs)
        self.down = Linear(F, D, std=std, dtype=dtype, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        hidden_BTF = jax.nn.silu(self.gate(x_BTD)) * self.up(x_BTD)
        return self.down(constrain(self.layout, hidden_BTF, "batch", "sequence", "mlp"))
