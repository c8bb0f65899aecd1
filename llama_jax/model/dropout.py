"""Residual dropout that grows with depth ("lima", Zhou et al. 2023, arXiv:2305.11206).

And the keys by which adapters draw theirs.
"""

import dataclasses

import jax
import jax.numpy as jnp

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drop:
    """Zeroes a share `rate` of a residual branch and scales up the rest; None changes nothing.

    Stacked over layers it is scanned with them.
    """

    key: jax.Array | None
    rate: jax.Array | None

    def __call__(self, x_BTD: jax.Array, branch: int) -> jax.Array:
        """Returns [B, T, D]; each branch of a layer draws its own zeros."""
        if self.key is None or self.rate is None:
            return x_BTD
        kept_BTD = (
            jax.random.uniform(jax.random.fold_in(self.key, branch), x_BTD.shape) >= self.rate
        )
        scale = (1 / (1 - self.rate)).astype(x_BTD.dtype)
        return jnp.where(kept_BTD, x_BTD * scale, jnp.zeros((), x_BTD.dtype))


def by_layer(config: ModelConfig, key: jax.Array | None) -> Drop:
    """Returns the dropout of all layers, stacked; layer l has l / (L - 1) of the full rate."""
    if key is None or not config.residual_dropout:
        return Drop(None, None)
    rate_L = jnp.arange(config.layers, dtype=jnp.float32) / (config.layers - 1)
    return Drop(jax.random.split(key, config.layers), rate_L * config.residual_dropout)


def adapter_keys(lora: LoraConfig, layers: int, key: jax.Array | None) -> jax.Array | None:
    """Returns a key for the adapters of each layer, stacked; None without dropout."""
    if key is None or not lora.dropout:
        return None
    # Another stream than that of the residual branches.
    return jax.random.split(jax.random.fold_in(key, 1), layers)
