"""A learned linear map between named dimensions.

Dimensions: B batch, T tokens, I all inputs in one, O all outputs in one.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llama_jax.config.lora import LoraConfig
from llama_jax.model import quantized
from llama_jax.model.contract import contract
from llama_jax.model.lora import Adapter
from llama_jax.model.quantized import Quantized
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.weights import Dims


class Linear(nnx.Module):
    """x contracted with `kernel` over the leading `inputs` dimensions, plus an optional bias.

    The kernel keeps its dimensions apart ([D, N, H], not [D, N H]), so that each can be sharded
    and named: as what stands in `place.DIMS` under `name`. Under LoRA it has no gradient, may be
    quantized, and where it is adapted `lora` adds to its result.
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
        lora: LoraConfig,
        rngs: nnx.Rngs,
    ):
        kernel = std * jax.random.normal(rngs.params(), inputs + outputs, jnp.float32)
        kernel = kernel.astype(dtype)
        self.outputs = outputs
        self.kernel: nnx.Param | Quantized = nnx.Param(kernel)
        if quantized.applies(lora, name):
            matrix_IO = quantized.as_matrix(kernel, len(inputs))
            self.kernel = Quantized(matrix_IO, lora.quantization, lora.double_quantization)
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else nnx.data(None)
        self.layout, self.frozen = layout, lora.r > 0
        self.dims: Dims = (
            () if layout is None else place.kernel_dims(layout, name, inputs + outputs)
        )
        adapted = name.removesuffix("/kernel")
        self.lora = nnx.data(None)
        if adapted in lora.adapted:
            self.lora = Adapter(lora, inputs, outputs, adapted, layout, rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns [B, T, outputs] from [B, T, inputs], in the dtype of x; `key` is of adapters."""
        y = self._product(x)
        y = checkpoint_name(y, "product")  # So that a remat policy can keep it.
        y = y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None]
        return y if self.lora is None else y + self.lora(x, key)

    def _product(self, x: jax.Array) -> jax.Array:
        if not isinstance(self.kernel, Quantized):
            return contract(self.layout, self.dims, x, self.kernel[...], self.frozen)
        y_BTO = self.kernel.multiply(x.reshape(*x.shape[:2], -1))
        return y_BTO.reshape(*x.shape[:2], *self.outputs)
