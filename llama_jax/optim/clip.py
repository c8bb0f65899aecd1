"""Gradients of parts of the model clipped each by its own norm.

A part is one pipeline stage's parameters of one group (those that are decayed, or the others):
OpenChatKit's trainer clips so, whose stages do not know each other's norms.

Dimensions: L layers, S stages.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llama_jax.core import tree

LAYERS, EMBED = "layers/", "embed/"


def by_stage(
    largest: float, stages: int, group: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Returns a transformation after which no part's norm is above `largest`.

    Layers are cut into `stages` equal runs; the embedding is of the first stage, the last norm and
    the head are of the last.

    Args:
        largest: What longer gradients are shortened to.
        stages: How many; a divisor of the number of layers.
        group: Tree of gradients -> tree of True and False, the groups.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        groups = group(grads)
        squares = {True: jnp.zeros(stages), False: jnp.zeros(stages)}
        for (name, grad), of in zip(
            tree.named_leaves(grads).items(), jax.tree.leaves(groups), strict=True
        ):
            squares[of] += _squares_S(name, grad, stages)
        factor = {of: jnp.minimum(1.0, largest / jnp.sqrt(sum_S)) for of, sum_S in squares.items()}
        shortened = jax.tree.map(
            lambda name, grad, of: _times(name, grad, factor[of]), _names(grads), grads, groups
        )
        return shortened, state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _names(grads: Any) -> Any:
    return tree.map_named(lambda name, _: name, grads)


def _squares_S(name: str, grad: jax.Array, stages: int) -> jax.Array:
    """Returns the sum of a gradient's squares in each stage."""
    square = jnp.square(grad.astype(jnp.float32))
    if name.startswith(LAYERS):
        square_L = square.sum(tuple(range(1, square.ndim)))
        return square_L.reshape(stages, -1).sum(1)
    return jnp.zeros(stages).at[_stage(name)].set(square.sum())


def _times(name: str, grad: jax.Array, factor_S: jax.Array) -> jax.Array:
    """Returns the gradient times the number of its stage."""
    factor = factor_S[_stage(name)]
    if name.startswith(LAYERS):
        factor_L = jnp.repeat(factor_S, grad.shape[0] // len(factor_S))
        factor = factor_L.reshape(-1, *[1] * (grad.ndim - 1))
    return (grad.astype(jnp.float32) * factor).astype(grad.dtype)


def _stage(name: str) -> int:
    return 0 if name.startswith(EMBED) else -1
