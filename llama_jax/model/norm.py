"""Root mean square normalisation (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).

Dimensions: B batch, T tokens, D embed.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

CHUNK = 64  # Tokens of one part of a gradient's sum.


class RMSNorm(nnx.Module):
    """scale * x / sqrt(mean(x^2) + eps), the quotient in float32."""

    def __init__(self, size: int, eps: float, dtype: jnp.dtype, frozen: bool = False):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps, self.frozen = eps, frozen

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D] in the dtype of x: rounded first, then scaled, as Hugging Face does."""
        return _scaled(self.eps, self.frozen, x_BTD, self.scale[...].astype(x_BTD.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scaled(eps: float, frozen: bool, x_BTD: jax.Array, scale_D: jax.Array) -> jax.Array:
    unit_BTD, _ = _unit(eps, x_BTD)
    return unit_BTD.astype(x_BTD.dtype) * scale_D[None, None]


def _unit(eps: float, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns x / root and 1 / root, f32 [B, T, D] and [B, T, 1]."""
    wide_BTD = x_BTD.astype(jnp.float32)
    mean_BT1 = jnp.mean(wide_BTD * wide_BTD, axis=-1, keepdims=True)
    inverse_BT1 = lax.rsqrt(mean_BT1 + eps)
    return wide_BTD * inverse_BT1, inverse_BT1


def _forward(eps: float, frozen: bool, x_BTD: jax.Array, scale_D: jax.Array):
    return _scaled(eps, frozen, x_BTD, scale_D), (x_BTD, scale_D)


def _backward(eps: float, frozen: bool, saved, dy_BTD: jax.Array):
    forms = {"cpu": gradients_in_turn, "default": gradients_at_once}
    forms = {name: functools.partial(form, eps, frozen) for name, form in forms.items()}
    return lax.platform_dependent(*saved, dy_BTD, **forms)


def gradients_in_turn(eps: float, frozen: bool, x_BTD, scale_D, dy_BTD):
    """Returns the gradients of x and scale; for CPUs, where one pass for both takes ten times."""
    dscale_D = None
    if not frozen:
        unit_BTD, _ = _unit(eps, x_BTD)
        dscale_D = (dy_BTD.astype(jnp.float32) * unit_BTD).sum((0, 1)).astype(scale_D.dtype)
        # First dscale: as long as it waits, x and dy are held.
        dscale_D, x_BTD, dy_BTD = lax.optimization_barrier((dscale_D, x_BTD, dy_BTD))
    unit_BTD, inverse_BT1 = _unit(eps, x_BTD)
    dunit_BTD = dy_BTD.astype(jnp.float32) * scale_D.astype(jnp.float32)[None, None]
    along_BT1 = jnp.mean(dunit_BTD * unit_BTD, axis=-1, keepdims=True)
    dx_BTD = (dunit_BTD - unit_BTD * along_BT1) * inverse_BT1
    return dx_BTD.astype(x_BTD.dtype), dscale_D


def gradients_at_once(eps: float, frozen: bool, x_BTD, scale_D, dy_BTD):
    """Returns the gradients of x and scale, in as few passes over x and dy as XLA makes."""
    wide_BTD, grad_BTD = x_BTD.astype(jnp.float32), dy_BTD.astype(jnp.float32)
    dunit_BTD = grad_BTD * scale_D.astype(jnp.float32)[None, None]
    unit_BTD, inverse_BT1 = _unit(eps, x_BTD)
    # Of x and not of the unit, so that both means come from one pass.
    along_BT1 = jnp.mean(dunit_BTD * wide_BTD, axis=-1, keepdims=True) * inverse_BT1
    dx_BTD = ((dunit_BTD - unit_BTD * along_BT1) * inverse_BT1).astype(x_BTD.dtype)
    if frozen:
        return dx_BTD, None
    return dx_BTD, _over_tokens(grad_BTD * unit_BTD).astype(scale_D.dtype)


def _over_tokens(x_BTD: jax.Array) -> jax.Array:
    """Returns the sum over tokens, f32[D]."""
    return lax.platform_dependent(x_BTD, cuda=by_chunk, default=lambda x_BTD: x_BTD.sum((0, 1)))


def by_chunk(x_BTD: jax.Array) -> jax.Array:
    """Returns the sum over tokens, over chunks of them first.

    XLA for GPUs would write [B, T, D] in float32, and only then sum that many numbers of a column.
    """
    B, T, D = x_BTD.shape
    C = math.gcd(T, CHUNK)
    part_BTD = x_BTD.reshape(B, T // C, C, D).sum(2)
    return lax.optimization_barrier(part_BTD).sum((0, 1))  # XLA would make one sum of the two.


_scaled.defvjp(_forward, _backward)
