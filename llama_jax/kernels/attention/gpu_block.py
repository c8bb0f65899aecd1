"""What one block of a GPU kernel computes: its place, its visits, what a pair of tokens sees.

B batch, T query tokens, O own tiles of a block, V tiles it visits, E blocks of one head.
P rows and C columns of a tile, H head size.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from llama_jax.kernels.attention.gpu_schedule import PADDED
from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.schedule import HIGHEST, INDEX, LOWEST, SEGMENT
from llama_jax.kernels.attention.softmax import HIDDEN, LOG2E

# Bytes of keys and values that blocks running at the same time should share: half of the L2 cache
# of an A100, whose two halves both hold what both read. That of an H100 is a quarter larger.
TOGETHER = 20 * 10**6


@dataclasses.dataclass(frozen=True)
class Place:
    """What one block computes."""

    head: jax.Array
    row: jax.Array  # Of the batch.
    own: jax.Array  # Its tile.
    tile_BOV: Any  # The tiles to visit, in main memory.
    whole: jax.Array  # How many of them need no mask: the first ones.
    count: jax.Array

    def tile(self, visit: jax.Array) -> jax.Array:
        """Returns the tile of a visit."""
        return self.tile_BOV[self.row, self.own, visit]

    def shared(self, lines: Any) -> jax.Array | int:
        """Returns the row of lines that all rows of the batch may share."""
        return self.row if lines.shape[0] > 1 else 0


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of the blocks that stay computes: one item after the other."""

    block: jax.Array
    item_WP: Any
    place_of: Callable[[jax.Array], Place]

    @property
    def count(self) -> jax.Array:
        """How many items: only in the last round may there be none."""
        rounds = self.item_WP.shape[0]
        return rounds - (self.item_WP[rounds - 1, self.block] < 0).astype(jnp.int32)

    def each(self, item: Callable[[Place, jax.Array, jax.Array], None]) -> jax.Array:
        """Calls `item(place, nth, visits before)` one after the other; returns all visits."""

        def one(nth, before):
            place = self.place_of(self.item_WP[nth, self.block])
            item(place, nth, before)
            return before + place.count

        return lax.fori_loop(0, self.count, one, jnp.int32(0))


def place_of(index: jax.Array, heads: int, block_E, tile_BOV, whole_BO, count_BO) -> Place:
    """Returns what the block of this index computes; `heads` at a time share what they read."""
    group, within = _divide(index, block_E.shape[0] * heads)
    entry, head = _divide(within, heads)
    row, own = _divide(block_E[entry], count_BO.shape[1])
    return Place(
        head=group * heads + head,
        row=row,
        own=own,
        tile_BOV=tile_BOV,
        whole=whole_BO[row, own],
        count=count_BO[row, own],
    )


def visit_all(place: Place, visit: Callable, sums: Any, times: int = 1) -> Any:
    """Returns the sums after `visit(step, sums, masked)` of all tiles, each `times` times."""
    whole, count = times * place.whole, times * place.count
    sums = lax.fori_loop(0, whole, functools.partial(visit, masked=False), sums)
    return lax.fori_loop(whole, count, functools.partial(visit, masked=True), sums)


def heads_together(heads: int, bytes_of_head: int) -> int:
    """Returns how many heads run at the same time, a divisor of all: those that fit the cache."""
    most = max(1, TOGETHER // max(bytes_of_head, 1))
    return max(n for n in range(1, heads + 1) if heads % n == 0 and n <= most)


def padded(x_BTNH: jax.Array, H: int) -> jax.Array:
    """Returns the array filled up with zeros: to whole tiles, and to a head size of `H`."""
    more = -x_BTNH.shape[1] % PADDED, H - x_BTNH.shape[3]
    if more == (0, 0):
        return x_BTNH
    return jnp.pad(x_BTNH, ((0, 0), (0, more[0]), (0, 0), (0, more[1])))


def backward_inputs(
    H: int,
    q_BTNH: jax.Array,
    out_BTNH: jax.Array,
    log_sum_BNT: jax.Array,
    grad_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
) -> dict[str, jax.Array]:
    """Returns what both backward kernels read, filled up to whole tiles and a head size of `H`."""
    # The part of each score's gradient that comes from the normalisation: grad . out.
    shared_BTN = (grad_BTNH.astype(jnp.float32) * out_BTNH.astype(jnp.float32)).sum(-1)
    more = ((0, 0), (0, 0), (0, -q_BTNH.shape[1] % PADDED))
    return {
        "q": padded(q_BTNH, H),
        "k": padded(k_BSKH, H),
        "v": padded(v_BSKH, H),
        "grad": padded(grad_BTNH, H),
        "log_sum": jnp.pad(log_sum_BNT, more),
        "shared": jnp.pad(shared_BTN.swapaxes(1, 2), more),
        "q_lines": mask.plan.q_lines_BUT,
        "k_lines": mask.plan.k_lines_BUS,
    }


def scale_of(H: int) -> float:
    """Returns what scores are multiplied with for a softmax in base 2."""
    return LOG2E * H**-0.5


def over_columns(x_P: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns [P, C] or [P, H]: one number for each row, in every column."""
    return lax.broadcast_in_dim(x_P, shape, [0])


def over_rows(x_C: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns [P, C]: one number for each column, in every row."""
    return lax.broadcast_in_dim(x_C, shape, [1])


def where_seen(score: jax.Array, q: Callable, k: Callable, lines: int) -> jax.Array:
    """Returns the scores, HIDDEN where query and key do not see each other.

    `q` and `k` give a line of `schedule.Lines` in the shape of the scores; a third line is that of
    a window. One line after the other, so that few registers hold them.
    """
    score = jnp.where(q(SEGMENT) == k(SEGMENT), score, HIDDEN)
    score = jnp.where(q(HIGHEST) >= k(INDEX), score, HIDDEN)
    return jnp.where(q(LOWEST) <= k(INDEX), score, HIDDEN) if lines == 3 else score


def _divide(a: jax.Array, b: int) -> tuple[jax.Array, jax.Array]:
    return lax.div(a, jnp.int32(b)), lax.rem(a, jnp.int32(b))
