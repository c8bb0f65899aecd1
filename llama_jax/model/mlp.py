"""The gated feed-forward block (SwiGLU, Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ModelConfig
from llama_jax.model.linear import Linear
from llama_jax.sharding.layout import Layout, constrain


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        layout: Layout | None,
        lora: LoraConfig,
        rngs: nnx.Rngs,
    ):
        D, F, std = (config.embed,), (config.mlp,), config.init_std
        self.layout = layout
        linear = partial(Linear, std=std, dtype=dtype, layout=layout, lora=lora, rngs=rngs)
        self.gate = linear(D, F, "mlp/gate/kernel")
        self.up = linear(D, F, "mlp/up/kernel")
        self.down = linear(F, D, "mlp/down/kernel")

    def __call__(self, x_BTD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns [B, T, D]; `key` is of adapters."""
        hidden_BTF = jax.nn.silu(self.gate(x_BTD, key)) * self.up(x_BTD, key)
        return self.down(constrain(self.layout, hidden_BTF, "batch", "sequence", "mlp"), key)
