"""A learned linear map between named dimensions.

Dimensions: B batch, T tokens, I all inputs in one, O all outputs in one.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name


class Linear(nnx.Module):
    """x contracted with `kernel` over the leading `inputs` dimensions, plus an optional bias.

    The kernel keeps its dimensions apart ([D, N, H], not [D, N H]), so that each can be sharded
    and named.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        std: float,
        dtype: jnp.dtype,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        kernel = std * jax.random.normal(rngs.params(), inputs + outputs, jnp.float32)
        self.kernel = nnx.Param(kernel.astype(dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else nnx.data(None)
        self.contracted = len(inputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, T, outputs] from [B, T, inputs], in the dtype of x."""
        kernel = self.kernel[...].astype(x.dtype)
        I, outputs = math.prod(kernel.shape[: self.contracted]), kernel.shape[self.contracted :]
        # Plain matrices: XLA's libraries for CPUs and GPUs are fastest there.
        y_BTO = product(x.reshape(*x.shape[:2], I), kernel.reshape(I, -1))
        y = y_BTO.reshape(*x.shape[:2], *outputs)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]


@jax.custom_vjp
def product(x_BTI: jax.Array, w_IO: jax.Array) -> jax.Array:
    """Returns x w as [B, T, O], summed in float32 and rounded once to the dtype of x.

    The form is chosen for XLA's CPU backend, where it is up to three times as fast as JAX's own
    (README.md); it means the same on every platform.
    """
    y_BTO = jnp.einsum("BTI,IO->BTO", x_BTI, w_IO, preferred_element_type=jnp.float32)
    # Named, so that a remat policy can keep it; rounded first, to keep half as much.
    return checkpoint_name(y_BTO.astype(x_BTI.dtype), "product")


def _forward(x_BTI: jax.Array, w_IO: jax.Array):
    return product(x_BTI, w_IO), (x_BTI, w_IO)


def _backward(saved, dy_BTO: jax.Array):
    x_BTI, w_IO = saved
    dx_BTI = jnp.einsum("BTO,IO->BTI", dy_BTO, w_IO, preferred_element_type=jnp.float32)
    dw_IO = jnp.einsum("BTI,BTO->IO", x_BTI, dy_BTO, preferred_element_type=jnp.float32)
    return dx_BTI.astype(x_BTI.dtype), dw_IO.astype(w_IO.dtype)


product.defvjp(_forward, _backward)
