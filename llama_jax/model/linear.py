"""A learned linear map between named dimensions."""

import math

import jax
import jax.numpy as jnp
from flax import nnx


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
        """Returns [B, T, outputs] from [B, T, inputs], in the dtype of x, summed in float32."""
        kernel = self.kernel[...].astype(x.dtype)
        split = self.contracted
        # One matrix product of two plain matrices: XLA's CPU and GPU libraries are fastest there.
        size = math.prod(kernel.shape[:split])
        flat = x.reshape(*x.shape[:2], size) @ kernel.reshape(size, -1)
        y = flat.reshape(*x.shape[:2], *kernel.shape[split:])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]
