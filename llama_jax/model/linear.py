"""A learned linear map between named dimensions.

Dimensions: B batch, T tokens, I all inputs in one, O all outputs in one.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llama_jax.model import split_linear
from llama_jax.model.product import product
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout


class Linear(nnx.Module):
    """x contracted with `kernel` over the leading `inputs` dimensions, plus an optional bias.

    The kernel keeps its dimensions apart ([D, N, H], not [D, N H]), so that each can be sharded
    and named: as what stands in `place.DIMS` under `name`.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        name: str,
        *,
        std: float,
        dtype: jnp.dtype,
        bias: bool = False,
        layout: Layout | None,
        rngs: nnx.Rngs,
    ):
        kernel = std * jax.random.normal(rngs.params(), inputs + outputs, jnp.float32)
        self.kernel = nnx.Param(kernel.astype(dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else nnx.data(None)
        self.contracted = len(inputs)
        self.layout = layout
        if layout is not None:
            self.dims = place.kernel_dims(layout, name, inputs + outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, T, outputs] from [B, T, inputs], in the dtype of x."""
        kernel = self.kernel[...].astype(x.dtype)
        if self.layout is None or self.layout.mesh.size == 1:
            y = self._multiply(x, kernel)
        else:
            y = split_linear.multiply(self.layout, self.dims, x, kernel)
        y = checkpoint_name(y, "product")  # So that a remat policy can keep it.
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]

    def _multiply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        I, outputs = math.prod(kernel.shape[: self.contracted]), kernel.shape[self.contracted :]
        # Plain matrices: XLA's libraries for CPUs and GPUs are fastest there.
        y_BTO = product(x.reshape(*x.shape[:2], I), kernel.reshape(I, -1))
        return y_BTO.reshape(*x.shape[:2], *outputs)
