"""Which tiles of the scores a kernel computes, in which order: decided from the mask, inside jit.

B batch, T query tokens, S key tokens, I tiles of queries, J tiles of keys, E visits, X 8 lines.

A tile is visited if its queries and keys may see each other: if their segments overlap, and their
indices do as far as causality and the window allow. Two documents and padding in tiles of two
tokens; `f` is computed without the mask, `m` with it, and nothing else:

    m . . . .
    f m . . .
    m m m . .
    . . m m .       the second document begins with the sixth token
    . . . . .       padding; one visit writes the zeros

A list of visits is a scalar-prefetch argument of a kernel and drives its grid: by queries in the
forward pass, by keys in the backward pass. All layers share the lists.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.tiles import Setup, Tiles

# What a visit does, as bits.
FIRST = 1  # Start the sums: the first visit of its query tile (or key tile, where keys come first).
LAST = 2  # Write them out.
COMPUTE = 4
MASKED = 8  # Some pairs of the tile do not see each other.
FLUSH = 16  # Write out the finished gradient of one query tile.

# Lines of numbers that decide, token by token, what is seen: rows of an i32 [8, tokens] array.
SEGMENT, HIGHEST, LOWEST = 0, 1, 2  # Of a query: its segment, the first and last index it sees.
INDEX = 1  # Of a key, beside its segment.
LINES = 8  # What a TPU's registers hold in one column.

_FAR = 2**30  # An index beyond all keys.
# Segments of padding: never equal, and no document has them.
NO_QUERY, NO_KEY = np.iinfo(np.int32).min, np.iinfo(np.int32).min + 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visits:
    """The tiles to visit, in order; after `count` entries nothing that is to be visited."""

    row_E: jax.Array  # i32: the row of the batch.
    query_E: jax.Array  # i32: the tile of queries, from 0 in each row.
    key_E: jax.Array  # i32: the tile of keys.
    what_E: jax.Array  # i32: bits above.
    count: jax.Array  # i32 []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lines:
    """What decides token by token; padded to whole tiles."""

    q_BXT: jax.Array  # i32 [B or 1, 8, T]: SEGMENT, HIGHEST, LOWEST.
    k_BXS: jax.Array  # i32 [B or 1, 8, S]: SEGMENT, INDEX.


def lines(mask: Mask, T: int, S: int, padded_T: int, padded_S: int) -> Lines:
    """Returns the mask's numbers; tokens beyond T and S see nothing and are seen by nobody."""
    index_T, index_S = mask.indices(T, S)
    highest_T = index_T if mask.causal else jnp.full_like(index_T, _FAR)
    lowest_T = jnp.full_like(index_T, -_FAR)
    if mask.window is not None:
        lowest_T = index_T - (mask.window - 1)
    q_segment_BT, k_segment_BS = jnp.ones((1, T), jnp.int32), jnp.ones((1, S), jnp.int32)
    if mask.q_segment_BT is not None and mask.k_segment_BS is not None:
        q_segment_BT = jnp.where(mask.q_segment_BT == 0, NO_QUERY, mask.q_segment_BT)
        k_segment_BS = jnp.where(mask.k_segment_BS == 0, NO_KEY, mask.k_segment_BS)
    more_T, more_S = ((0, 0), (0, padded_T - T)), ((0, 0), (0, padded_S - S))
    return Lines(
        _stack(
            jnp.pad(q_segment_BT, more_T, constant_values=NO_QUERY),
            jnp.pad(highest_T[None], more_T, mode="edge"),
            jnp.pad(lowest_T[None], more_T, mode="edge"),
        ),
        _stack(
            jnp.pad(k_segment_BS, more_S, constant_values=NO_KEY),
            jnp.pad(index_S[None], more_S, mode="edge"),
        ),
    )


def by_query(lines: Lines, mask: Mask, tiles: Tiles, B: int, T: int, S: int) -> Visits:
    """Returns the visits in the order of queries; every query tile has one at least."""
    seen_BIJ, whole_BIJ = seen_tiles(lines, tiles.queries, tiles.keys, B)
    most = _most(mask, tiles, T, S, by_key=False)
    return _visits(seen_BIJ, whole_BIJ, B * most, flush=False)


def by_key(lines: Lines, mask: Mask, tiles: Tiles, B: int, T: int, S: int, flush: bool) -> Visits:
    """Returns the visits in the order of keys; every key tile has one at least.

    With `flush` each row of the batch ends with one visit for each query tile.
    """
    seen_BIJ, whole_BIJ = seen_tiles(lines, tiles.queries, tiles.keys, B)
    most = _most(mask, tiles, T, S, by_key=True) + flush * seen_BIJ.shape[1]
    found = _visits(seen_BIJ.swapaxes(1, 2), whole_BIJ.swapaxes(1, 2), B * most, flush)
    return dataclasses.replace(found, query_E=found.key_E, key_E=found.query_E)


def _visits(seen_BOI: jax.Array, whole_BOI: jax.Array, most: int, flush: bool) -> Visits:
    """Returns the visits, outer dimension O first; entries are named as if O were queries."""
    B, O, I = seen_BOI.shape
    visit_BOI = seen_BOI.at[:, :, 0].max(~seen_BOI.any(axis=2))
    visit_BX = visit_BOI.reshape(B, O * I)
    if flush:
        visit_BX = jnp.pad(visit_BX, ((0, 0), (0, I)), constant_values=True)
    X = visit_BX.shape[1]
    count = visit_BX.sum(dtype=jnp.int32)
    (at_E,) = jnp.nonzero(visit_BX.reshape(-1), size=most, fill_value=B * X - 1)
    row_E, x_E = (a.astype(jnp.int32) for a in jnp.divmod(at_E, X))
    is_flush_E = x_E >= O * I
    inner_E = jnp.where(is_flush_E, x_E - O * I, x_E % I)
    outer_E = jnp.where(is_flush_E, O - 1, x_E // I)
    group_E = jnp.where(is_flush_E, -1, row_E * O + outer_E)
    entry_E = jnp.arange(most)
    is_first_E = (entry_E == 0) | (group_E != jnp.roll(group_E, 1))
    is_last_E = (entry_E == count - 1) | (group_E != jnp.roll(group_E, -1))
    compute_E, whole_E = seen_BOI[row_E, outer_E, inner_E], whole_BOI[row_E, outer_E, inner_E]
    bits = ((FIRST, is_first_E), (LAST, is_last_E), (COMPUTE, compute_E), (MASKED, ~whole_E))
    what_E = functools.reduce(jnp.add, [jnp.where(is_set, bit, 0) for bit, is_set in bits])
    what_E = jnp.where(is_flush_E, FLUSH, what_E)
    return Visits(row_E, outer_E, inner_E, what_E, count)


def seen_tiles(lines: Lines, queries: int, keys: int, B: int) -> tuple[jax.Array, jax.Array]:
    """Returns bool [B, I, J] twice: the tile may hold a pair that is seen; it holds no other."""
    q_BXIt = lines.q_BXT.reshape(*lines.q_BXT.shape[:2], -1, queries)
    k_BXJs = lines.k_BXS.reshape(*lines.k_BXS.shape[:2], -1, keys)
    q_min_BXI1, q_max_BXI1 = q_BXIt.min(-1)[..., None], q_BXIt.max(-1)[..., None]
    k_min_BX1J, k_max_BX1J = k_BXJs.min(-1)[:, :, None], k_BXJs.max(-1)[:, :, None]
    # The smallest segment of a document: padding is below all.
    q_low_BI1 = _smallest_document(q_BXIt[:, SEGMENT])[..., None]
    k_low_B1J = _smallest_document(k_BXJs[:, SEGMENT])[:, None]
    seen_BIJ = (
        (q_low_BI1 <= k_max_BX1J[:, SEGMENT])
        & (k_low_B1J <= q_max_BXI1[:, SEGMENT])
        & (k_min_BX1J[:, INDEX] <= q_max_BXI1[:, HIGHEST])
        & (k_max_BX1J[:, INDEX] >= q_min_BXI1[:, LOWEST])
    )
    whole_BIJ = (
        (q_min_BXI1[:, SEGMENT] == k_max_BX1J[:, SEGMENT])
        & (q_max_BXI1[:, SEGMENT] == k_min_BX1J[:, SEGMENT])
        & (q_min_BXI1[:, SEGMENT] == q_max_BXI1[:, SEGMENT])
        & (k_max_BX1J[:, INDEX] <= q_min_BXI1[:, HIGHEST])
        & (k_min_BX1J[:, INDEX] >= q_max_BXI1[:, LOWEST])
    )
    shape = (B, *seen_BIJ.shape[1:])
    return jnp.broadcast_to(seen_BIJ, shape), jnp.broadcast_to(whole_BIJ, shape)


def _smallest_document(segment_BIt: jax.Array) -> jax.Array:
    """Returns [B, I]; where there is padding only, a number above all segments."""
    document_BIt = jnp.where(segment_BIt <= NO_KEY, np.iinfo(np.int32).max, segment_BIt)
    return document_BIt.min(-1)


def _most(mask: Mask, tiles: Tiles, T: int, S: int, by_key: bool) -> int:
    """Returns how many visits one row of the batch can need, from what is static."""
    hidden_IJ = np.array(
        [
            [mask.hides(i, j, tiles.queries, tiles.keys) for j in range(0, S, tiles.keys)]
            for i in range(0, T, tiles.queries)
        ]
    )
    return int(np.maximum((~hidden_IJ).sum(axis=0 if by_key else 1), 1).sum())


def _stack(*lines_BT: jax.Array) -> jax.Array:
    """Returns [B, 8, T]: the lines, then zeros."""
    B = max(len(line) for line in lines_BT)
    stacked = jnp.stack([jnp.broadcast_to(line, (B, line.shape[1])) for line in lines_BT], axis=1)
    return jnp.pad(stacked, ((0, 0), (0, LINES - len(lines_BT)), (0, 0)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """All that the kernels know of a mask, for both passes."""

    forward: Visits
    forward_lines: Lines
    backward: Visits
    dq: Visits | None  # Where the backward pass is two kernels, the visits of the second.
    backward_lines: Lines
    setup: Setup = dataclasses.field(metadata={"static": True})
    sizes: tuple[int, int, int] = dataclasses.field(metadata={"static": True})  # B, T, S


def make(mask: Mask, setup: Setup, B: int, T: int, S: int) -> Schedule:
    """Returns the schedule; call it once per step, outside the loop over layers."""
    forward_lines = lines(mask, T, S, *setup.forward.padded(T, S))
    backward_lines = lines(mask, T, S, *setup.backward.padded(T, S))
    backward = (backward_lines, mask, setup.backward, B, T, S)
    return Schedule(
        forward=by_query(forward_lines, mask, setup.forward, B, T, S),
        forward_lines=forward_lines,
        backward=by_key(*backward, flush=setup.fused),
        dq=None if setup.fused else by_query(*backward),
        backward_lines=backward_lines,
        setup=setup,
        sizes=(B, T, S),
    )
