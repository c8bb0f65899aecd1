"""Weights inside shard_map: fetched whole to multiply, their gradients summed back (ZeRO-3).

Each device stores its part of `embed` and computes with its own tokens. Rajbhandari et al. 2019,
https://arxiv.org/abs/1910.02054. What travels is in the dtype that is handed in.
"""

import jax
from jax import lax

from llama_jax.sharding.layout import Layout

Dims = tuple[str | None, ...]


def fetch(layout: Layout, dims: Dims, part: jax.Array) -> jax.Array:
    """Returns the weight with all of `embed`, of which each device has a part; other dims stay."""
    if not (axes := layout.axes("embed")) or "embed" not in dims:
        return part
    return lax.all_gather(part, axes, axis=dims.index("embed"), tiled=True)


def sum_gradient(layout: Layout, dims: Dims, grad: jax.Array) -> jax.Array:
    """Returns this device's part of the sum over all devices' tokens; the other way of `fetch`."""
    parts = layout.axes("embed") if "embed" in dims else ()
    if parts:
        grad = lax.psum_scatter(grad, parts, scatter_dimension=dims.index("embed"), tiled=True)
    # Last, because there is least left to send.
    return psum(grad, tuple(axis for axis in layout.token_axes if axis not in parts))


def psum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Returns the sum over mesh axes; over none, x."""
    return lax.psum(x, axes) if axes else x
