"""Root mean square normalisation (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

import jax
import jax.numpy as jnp
from flax import nnx


class RMSNorm(nnx.Module):
    """scale * x / sqrt(mean(x^2) + eps), the quotient in float32."""

    def __init__(self, size: int, eps: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps = eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D] in the dtype of x: rounded first, then scaled, as Hugging Face does."""
        wide_BTD = x_BTD.astype(jnp.float32)
        mean_BT1 = jnp.mean(wide_BTD * wide_BTD, axis=-1, keepdims=True)
        unit_BTD = (wide_BTD * jax.lax.rsqrt(mean_BT1 + self.eps)).astype(x_BTD.dtype)
        return unit_BTD * self.scale[...].astype(x_BTD.dtype)[None, None, :]
