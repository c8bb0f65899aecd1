"""Frozen matrices in 4 or 8 bits: blocks of 64 inputs of one output share a scale.

    nf4     w = scale NF4[code]      16 quantiles of a normal distribution, two codes to a byte
    int8    w = scale code / 127
    scale   max |w| of the block, float32; or, quantized again, in blocks of 256 outputs:
            mean + spread code / 127, where spread is max |scale - mean| of its block

That is 4.5 and 8.5 bits for a weight, or 4.127 and 8.127. Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314. Only the layer that is computed is ever in the compute dtype.

Dimensions: B batch, T tokens, I inputs in one, O outputs in one; A blocks of inputs, E inputs of a
block, C blocks of outputs, F outputs of a block.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llama_jax.config.lora import LoraConfig, Quantization
from llama_jax.model.product import input_gradient, product
from llama_jax.sharding import place

BLOCK = 64  # Weights that share a scale, and
SCALES = 256  # scales that share theirs, as in the paper.
# Appendix E of the paper.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
Parts = dict[str, jax.Array]


def applies(lora: LoraConfig, name: str) -> bool:
    """True if a parameter of the layers, or of all, is quantized: the layers' matrices are."""
    kernel = name.removeprefix("layers/")
    return lora.quantization != "none" and kernel in place.INPUTS and kernel.count("/") == 2


class Stored(nnx.Param):
    """A parameter that is computed with as it is stored, whatever the compute dtype."""


class Quantized(nnx.Module):
    """A matrix [I, O] in a few bits."""

    def __init__(self, w_IO: jax.Array, quantization: Quantization, twice: bool):
        self.names = tuple(sorted(parts := quantize(w_IO, quantization, twice)))
        self.inputs = w_IO.shape[0]
        for name, part in parts.items():
            setattr(self, name, Stored(part))

    def multiply(self, x_BTI: jax.Array) -> jax.Array:
        """Returns x w as [B, T, O], of which w has no gradient."""
        return _multiply(
            self.inputs, x_BTI, {name: getattr(self, name)[...] for name in self.names}
        )


def quantize(w_IO: jax.Array, quantization: Quantization, twice: bool) -> Parts:
    """Returns the parts that `dequantize` takes; `twice` quantizes the scales too."""
    I, O = w_IO.shape
    w_IO = jnp.pad(w_IO.astype(jnp.float32), ((0, -I % BLOCK), (0, 0)))
    w_AEO = w_IO.reshape(-1, BLOCK, O)
    scale_AO = jnp.abs(w_AEO).max(axis=1)
    unit_AEO = w_AEO / jnp.where(scale_AO > 0, scale_AO, 1.0)[:, None]
    codes_AEO = _nf4_codes(unit_AEO) if quantization == "nf4" else _int8_codes(unit_AEO)
    return {"codes": codes_AEO, **(_quantize_scales(scale_AO) if twice else {"scale": scale_AO})}


def dequantize(parts: Parts, inputs: int, dtype: Any) -> jax.Array:
    """Returns the matrix [I, O], multiplied in float32 and rounded once."""
    codes_AEO = parts["codes"]
    is_nf4 = codes_AEO.dtype == jnp.uint8
    unit_AEO = _nf4_values(codes_AEO) if is_nf4 else codes_AEO.astype(jnp.float32) / 127
    scale_AO = parts["scale"] if "scale" in parts else _dequantize_scales(parts)
    w_AEO = (unit_AEO * scale_AO[:, None]).astype(dtype)
    return w_AEO.reshape(-1, w_AEO.shape[-1])[:inputs]


def of_kernel(lora: LoraConfig, name: str, kernel: jax.Array) -> Parts:
    """Returns the parts of one layer's kernel, by its name with or without 'layers/'."""
    matrix_IO = as_matrix(kernel, place.INPUTS[name.removeprefix("layers/")])
    return quantize(matrix_IO, lora.quantization, lora.double_quantization)


def round_trip(lora: LoraConfig, name: str, kernel: jax.Array) -> jax.Array:
    """Returns one layer's kernel as it is computed with in its own dtype."""
    inputs = math.prod(kernel.shape[: place.INPUTS[name.removeprefix("layers/")]])
    return dequantize(of_kernel(lora, name, kernel), inputs, kernel.dtype).reshape(kernel.shape)


def as_matrix(kernel: jax.Array, inputs: int) -> jax.Array:
    """Returns a kernel, of whose dimensions the first `inputs` are summed over, as [I, O]."""
    return kernel.reshape(math.prod(kernel.shape[:inputs]), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(inputs: int, x_BTI: jax.Array, parts: Parts) -> jax.Array:
    return product(x_BTI, dequantize(parts, inputs, x_BTI.dtype))


def _forward(inputs: int, x_BTI: jax.Array, parts: Parts):
    return _multiply(inputs, x_BTI, parts), parts


def _backward(inputs: int, parts: Parts, dy_BTO: jax.Array):
    return input_gradient(dequantize(parts, inputs, dy_BTO.dtype), dy_BTO), None


_multiply.defvjp(_forward, _backward)


def _int8_codes(unit_AEO: jax.Array) -> jax.Array:
    return jnp.round(unit_AEO * 127).astype(jnp.int8)


def _nf4_codes(unit_AEO: jax.Array) -> jax.Array:
    """Returns the nearest codes, of inputs e and e + 32 of a block in one byte."""
    code_AEO = jnp.zeros(unit_AEO.shape, jnp.uint8)
    for low, high in itertools.pairwise(NF4):
        code_AEO += (unit_AEO > (low + high) / 2).astype(jnp.uint8)
    return code_AEO[:, : BLOCK // 2] | (code_AEO[:, BLOCK // 2 :] << 4)


def _nf4_values(codes_AEO: jax.Array) -> jax.Array:
    code_AEO = jnp.concatenate([codes_AEO & 15, codes_AEO >> 4], axis=1)
    return jnp.asarray(NF4, jnp.float32)[code_AEO]


def _quantize_scales(scale_AO: jax.Array) -> Parts:
    mean = scale_AO.mean()
    A, O = scale_AO.shape
    off_AO = jnp.pad(scale_AO - mean, ((0, 0), (0, -O % SCALES)))
    off_ACF = off_AO.reshape(A, -1, SCALES)
    spread_AC = jnp.abs(off_ACF).max(axis=2)
    unit_ACF = off_ACF / jnp.where(spread_AC > 0, spread_AC, 1.0)[..., None]
    codes_AO = _int8_codes(unit_ACF).reshape(A, -1)[:, :O]
    return {"scale_codes": codes_AO, "scale_spread": spread_AC, "scale_mean": mean}


def _dequantize_scales(parts: Parts) -> jax.Array:
    codes_AO = parts["scale_codes"]
    spread_AO = jnp.repeat(parts["scale_spread"], SCALES, axis=1)[:, : codes_AO.shape[1]]
    return parts["scale_mean"] + spread_AO * (codes_AO.astype(jnp.float32) / 127)
