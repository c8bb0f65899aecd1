"""x contracted with a kernel, on one device or on a mesh, with or without a gradient of the kernel.

Dimensions: B batch, T tokens, I all inputs in one.
"""

import math

import jax

from llama_jax.model import split_linear
from llama_jax.model.product import frozen_product, product
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.weights import Dims


def contract(
    layout: Layout | None, dims: Dims, x: jax.Array, kernel: jax.Array, frozen: bool = False
) -> jax.Array:
    """Returns [B, T, outputs] from x [B, T, inputs] and kernel [inputs, outputs], in x's dtype.

    Args:
        layout: Of the mesh; None for one device.
        dims: The names of the kernel's dimensions, by which it is split.
        x: What goes in.
        kernel: Cast to the dtype of x.
        frozen: Gives no gradient of the kernel, and computes none.
    """
    kernel = kernel.astype(x.dtype)
    if layout is not None and layout.mesh.size > 1:
        multiply = split_linear.multiply_frozen if frozen else split_linear.multiply
        return multiply(layout, dims, x, kernel)
    I, outputs = math.prod(x.shape[2:]), kernel.shape[x.ndim - 2 :]
    # Plain matrices: XLA's libraries for CPUs and GPUs are fastest there.
    multiply_BTI = frozen_product if frozen else product
    y_BTO = multiply_BTI(x.reshape(*x.shape[:2], I), kernel.reshape(I, -1))
    return y_BTO.reshape(*x.shape[:2], *outputs)
