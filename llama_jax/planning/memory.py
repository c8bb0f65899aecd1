"""Where a device's memory goes.

Exact, from shapes and shardings: parameters, the optimizer's moments, gradients. From the compiled
program: its peak, its arguments, and activations: what the loop over layers stacks up for the
backward pass, read off that loop's buffers. Temporaries are the rest of the peak: gathered weights,
one layer's work, chunks of logits, the compiler's padding.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax

from llama_jax.planning.hlo import Array, Module


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device at the program's peak. The kinds add up to `peak`."""

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    temporaries: int
    inputs: int  # The batch.
    cache: int  # Keys and values, when decoding.
    peak: int
    usable: int | None  # Of the chip; None if nobody states it.

    @property
    def fits(self) -> bool | None:
        """True if the peak is at most what the chip has; None if that is not known."""
        return None if self.usable is None else self.peak <= self.usable


def local_bytes(tree: Any) -> int:
    """Returns the bytes of one device's parts of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.number)
    )


def gradient_bytes(parameters: Any, dtype: Any) -> int:
    """Returns the bytes of one device's gradients: sharded like the parameters."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * dtype.itemsize
        for leaf in jax.tree.leaves(parameters)
    )


def stacked_bytes(module: Module, layers: int, parameters: Any) -> int:
    """Returns the bytes that the forward loop over layers stacks up for the backward loop.

    These are the buffers that two loops share whose first dimension is that of the layers, without
    those that have the shape of a layer's parameters: the weights, as stored or cast. What is kept
    in the host's memory does not count. A program with one layer has no such loops, and 0.
    """
    weights = _weight_shapes(parameters)
    loops = []
    for name in module.runs:
        for loop in module.computations[name].values():
            if loop.opcode != "while" or module.trips(loop) not in (layers, layers - 1):
                continue
            stacked = [a for a in loop.arrays if len(a.dims) > 1 and a.dims[0] == layers]
            kept = [a for a in stacked if _sorted(a.dims[1:]) not in weights]
            if len(kept) < len(stacked):  # A loop over layers reads weights.
                loops.append(kept)
    return max((_shared_bytes(kept, loops) for kept in loops), default=0)


def _shared_bytes(kept: list[Array], loops: list[list[Array]]) -> int:
    """Returns the bytes of the buffers that another loop has too."""
    others = {_sorted(a.dims) for other in loops if other is not kept for a in other}
    return sum(a.bytes for a in kept if a.space in (0, 1) and _sorted(a.dims) in others)


def divide(
    *,
    peak: int,
    arguments: int,
    parameters: int,
    optimizer: int,
    gradients: int,
    activations: int,
    cache: int,
    usable: int | None,
) -> Memory:
    """Returns the peak divided into kinds; what is found later never makes the sum larger."""
    state = parameters + optimizer + cache
    inputs = max(0, arguments - state)
    left = max(0, peak - state - inputs)
    gradients = min(gradients, left)
    activations = min(activations, left - gradients)
    temporaries = left - gradients - activations
    peak = max(peak, state + inputs)
    return Memory(
        parameters, optimizer, gradients, activations, temporaries, inputs, cache, peak, usable
    )


def _weight_shapes(parameters: Any) -> set[tuple]:
    """Returns the shapes of one layer's parameters, whole and as one device's parts."""
    shapes: set[tuple] = set()
    for leaf in jax.tree.leaves(parameters):
        shapes.add(_sorted(leaf.shape[1:]))
        shapes.add(_sorted(leaf.sharding.shard_shape(leaf.shape)[1:]))
    return shapes


def _sorted(dims: Iterable[int]) -> tuple:
    """Returns the dimensions above 1 in any order: layouts and reshapes move them."""
    return tuple(sorted(collections.Counter(n for n in dims if n > 1).elements()))
