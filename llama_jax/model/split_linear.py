"""A linear map on a mesh: what each device fetches, multiplies and sums, spelled out.

                    forward                          backward
    kernel parts -> fetch -> whole ------------------> whole
    x ---------------> x whole -> sum (tensor) -> y     dy whole' -> sum (tensor) -> dx
                                                        x' dy -> sum (tokens) -> parts of dkernel

Left to itself, XLA multiplies in as many pieces as there are parts, and holds sums of float32.

A frozen kernel is fetched again for the backward pass, which has the second column alone.

Dimensions: B batch, T tokens, I all inputs in one, O all outputs in one; kernels and what goes in
and out of them keep the dimensions that `place.DIMS` names.
"""

import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from llama_jax.model.product import gradients, input_gradient, product
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.weights import Dims, fetch, psum, sum_gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def multiply(layout: Layout, dims: Dims, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x [B, T, inputs] times kernel [inputs, outputs], of which `dims` names the parts."""
    return _forward(layout, dims, x, kernel)[0]


def _forward(layout: Layout, dims: Dims, x: jax.Array, kernel: jax.Array):
    inputs, outputs = _ends(dims, x.ndim)

    def local(x, kernel):
        kernel = fetch(layout, dims, kernel)
        y_BTO = product(_flat(x, 2), _matrix(kernel, inputs))
        y = y_BTO.reshape(*x.shape[:2], *kernel.shape[len(inputs) :])
        return psum(y, _split(layout, inputs)), kernel

    y, kernel = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(_tokens(layout, inputs), layout.spec(*dims)),
        out_specs=(_tokens(layout, outputs), layout.spec(*inputs, *outputs)),
        check_vma=False,  # Every sum over devices is written here.
    )(x, kernel)
    return y, (x, checkpoint_name(kernel, "fetched_kernel"))


def _backward(layout: Layout, dims: Dims, saved, dy: jax.Array):
    x, kernel = saved
    inputs, outputs = _ends(dims, x.ndim)

    def local(x, kernel, dy):
        dx_BTI, dkernel_IO = gradients(_flat(x, 2), _matrix(kernel, inputs), _flat(dy, 2))
        dx = psum(dx_BTI.reshape(x.shape), _split(layout, outputs))
        return dx, sum_gradient(layout, dims, dkernel_IO.reshape(kernel.shape))

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(
            _tokens(layout, inputs),
            layout.spec(*inputs, *outputs),
            _tokens(layout, outputs),
        ),
        out_specs=(_tokens(layout, inputs), layout.spec(*dims)),
        check_vma=False,
    )(x, kernel, dy)


multiply.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def multiply_frozen(layout: Layout, dims: Dims, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `multiply`, of which the kernel has no gradient: it is not even computed."""
    return _forward(layout, dims, x, kernel)[0]


def _frozen_forward(layout: Layout, dims: Dims, x: jax.Array, kernel: jax.Array):
    return multiply_frozen(layout, dims, x, kernel), kernel


def _frozen_backward(layout: Layout, dims: Dims, kernel: jax.Array, dy: jax.Array):
    inputs, outputs = _ends(dims, len(dims) - dy.ndim + 4)

    def local(kernel, dy):
        kernel = fetch(layout, dims, kernel)
        dx_BTI = input_gradient(_matrix(kernel, inputs), _flat(dy, 2))
        dx = dx_BTI.reshape(*dy.shape[:2], *kernel.shape[: len(inputs)])
        return psum(dx, _split(layout, outputs))

    dx = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec(*dims), _tokens(layout, outputs)),
        out_specs=_tokens(layout, inputs),
        check_vma=False,
    )(kernel, dy)
    return dx, None


multiply_frozen.defvjp(_frozen_forward, _frozen_backward)


def _ends(dims: Dims, ndim: int) -> tuple[Dims, Dims]:
    """Returns the dimensions of what goes in and out, where `embed` is whole."""
    whole = tuple(None if dim == "embed" else dim for dim in dims)
    return whole[: ndim - 2], whole[ndim - 2 :]


def _tokens(layout: Layout, dims: Dims) -> PartitionSpec:
    return layout.spec("batch", "sequence", *dims)


def _split(layout: Layout, dims: Dims) -> tuple[str, ...]:
    """Returns the mesh axes that split any of the dimensions."""
    return tuple(axis for dim in dims if dim is not None for axis in layout.axes(dim))


def _matrix(kernel: jax.Array, inputs: Dims) -> jax.Array:
    """Returns the kernel as [I, O]."""
    return kernel.reshape(math.prod(kernel.shape[: len(inputs)]), -1)


def _flat(x: jax.Array, kept: int) -> jax.Array:
    """Returns x with all dimensions after the first `kept` in one."""
    return x.reshape(*x.shape[:kept], -1)
