"""What the TPU kernels do with one tile.

B batch, T tokens, N heads, H head size. One piece of a tile is P queries by C keys; L = 128 lanes,
X = 8 lines of numbers that decide what is seen, of which a mask uses U.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from llama_jax.kernels.attention.schedule import (
    COMPUTE,
    HIGHEST,
    INDEX,
    LOWEST,
    MASKED,
    SEGMENT,
)
from llama_jax.kernels.attention.softmax import LOG2E
from llama_jax.kernels.attention.tiles import LANES


def product(shapes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the product of two matrices as einsum would, in float32; float32 loses nothing."""
    first, second = shapes.split("->")[0].split(",")
    shared = next(letter for letter in first if letter in second)
    dims = (((first.index(shared),), (second.index(shared),)), ((), ()))
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def scaled(q_PH: jax.Array) -> jax.Array:
    """Returns q log2(e) / sqrt(H), so that scores are those of a softmax in base 2."""
    factor = LOG2E * q_PH.shape[-1] ** -0.5
    return (q_PH.astype(jnp.float32) * factor).astype(q_PH.dtype)


def spread(line_1P: jax.Array) -> jax.Array:
    """Returns [P, L]: the line as a column, the same in every lane."""
    P = line_1P.shape[1]
    column_P1 = jnp.broadcast_to(line_1P, (8, P)).T[:, :1]
    return jnp.broadcast_to(column_P1, (P, LANES))


def spread_lines(line_XP: jax.Array, used: int) -> jax.Array:
    """Returns [U, P, L]."""
    column_PX = line_XP.T
    shape = line_XP.shape[1], LANES
    return jnp.stack([jnp.broadcast_to(column_PX[:, u : u + 1], shape) for u in range(used)])


def wide(x_PL: jax.Array, width: int) -> jax.Array:
    """Returns [P, width] of what is the same in every lane."""
    return jnp.tile(x_PL, (1, -(-width // LANES)))[:, :width]


def seen(q, k, window: bool) -> jax.Array:
    """Returns which pairs see each other: `q` and `k` give a line as what broadcasts to pairs."""
    pairs = (q(SEGMENT) == k(SEGMENT)) & (q(HIGHEST) >= k(INDEX))
    return pairs & (q(LOWEST) <= k(INDEX)) if window else pairs


def where_computed(what: jax.Array, compute: Callable[[bool], None]) -> None:
    """Calls `compute(masked)` in a visit that computes; what is all seen needs no mask."""
    is_computed, is_masked = what & COMPUTE != 0, what & MASKED != 0
    pl.when(is_computed & is_masked)(lambda: compute(True))
    pl.when(is_computed & ~is_masked)(lambda: compute(False))


def heads_first(x_BTNH: jax.Array, tokens: int) -> jax.Array:
    """Returns [B, N, T, H], with zeros up to so many tokens."""
    more = tokens - x_BTNH.shape[1]
    x_BTNH = jnp.pad(x_BTNH, ((0, 0), (0, more), (0, 0), (0, 0))) if more else x_BTNH
    return x_BTNH.swapaxes(1, 2)


def tokens_first(x_BNTH: jax.Array, tokens: int) -> jax.Array:
    """Returns [B, T, N, H] of the first tokens."""
    return x_BNTH[:, :, :tokens].swapaxes(1, 2)
