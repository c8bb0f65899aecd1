"""Which tiles every block of a GPU kernel visits: decided from the mask, inside jit.

B batch, T query tokens, S key tokens, I tiles of queries, J tiles of keys, O own tiles of a block,
V tiles it visits, E blocks, U lines.

A block computes one tile of queries against all tiles of keys that they may see (in one backward
kernel the other way round). Its list is what `schedule.seen_tiles` finds, with the tiles that need
no mask first: two loops, and no question in either. Blocks with most to do start first.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from llama_jax.kernels.attention import schedule
from llama_jax.kernels.attention.mask import Mask

PADDED = 128  # Tokens are filled up to a multiple of this; all tiles divide it.


class Tiles(Protocol):
    """One tile is `queries` by `keys` scores."""

    @property
    def queries(self) -> int:
        """Tokens."""

    @property
    def keys(self) -> int:
        """Tokens."""


class Setup(Protocol):
    """How three kernels compute one shape: at least their tiles."""

    @property
    def forward(self) -> Tiles:
        """Those of the forward kernel."""

    @property
    def dkv(self) -> Tiles:
        """Those of the backward kernel that goes by keys."""

    @property
    def dq(self) -> Tiles:
        """Those of the backward kernel that goes by queries."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visits:
    """The lists of all blocks of one kernel."""

    block_E: jax.Array  # i32 [B O]: row O + tile, in the order in which blocks start.
    tile_BOV: jax.Array  # i32: the tiles to visit; what follows the last means nothing.
    whole_BO: jax.Array  # i32: how many of them need no mask: the first ones.
    count_BO: jax.Array  # i32: how many there are.
    item_WP: jax.Array | None = None  # Where blocks stay: see gpu_deal.py.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """All that the kernels know of a mask, for both passes."""

    forward: Visits
    dkv: Visits
    dq: Visits
    q_lines_BUT: jax.Array  # i32 [B or 1, 2 or 3, T]: schedule.SEGMENT, HIGHEST, LOWEST.
    k_lines_BUS: jax.Array  # i32 [B or 1, 2, S]: schedule.SEGMENT, INDEX.
    setup: Setup = dataclasses.field(metadata={"static": True})
    sizes: tuple[int, int, int] = dataclasses.field(metadata={"static": True})  # B, T, S


def make(mask: Mask, setup: Setup, B: int, T: int, S: int) -> Schedule:
    """Returns the schedule; call it once per step, outside the loop over layers."""
    padded_T, padded_S = (-(-size // PADDED) * PADDED for size in (T, S))
    lines = schedule.lines(mask, T, S, padded_T, padded_S)

    def found(tiles: Tiles, by_key: bool = False) -> Visits:
        seen_BIJ, whole_BIJ = schedule.seen_tiles(lines, tiles.queries, tiles.keys, B)
        if by_key:
            seen_BIJ, whole_BIJ = seen_BIJ.swapaxes(1, 2), whole_BIJ.swapaxes(1, 2)
        return visits(seen_BIJ, whole_BIJ)

    used = 2 if mask.window is None else 3
    return Schedule(
        forward=found(setup.forward),
        dkv=found(setup.dkv, by_key=True),
        dq=found(setup.dq),
        q_lines_BUT=lines.q_BXT[:, :used],
        k_lines_BUS=lines.k_BXS[:, :2],
        setup=setup,
        sizes=(B, T, S),
    )


def visits(seen_BOV: jax.Array, whole_BOV: jax.Array) -> Visits:
    """Returns the lists of the tiles that are seen; `whole` ones are seen by every query."""
    kind_BOV = jnp.where(seen_BOV, jnp.where(whole_BOV, 0, 1), 2)
    count_BO = seen_BOV.sum(axis=-1, dtype=jnp.int32)
    return Visits(
        block_E=jnp.argsort(-count_BO.reshape(-1), stable=True).astype(jnp.int32),
        tile_BOV=jnp.argsort(kind_BOV, axis=-1, stable=True).astype(jnp.int32),
        whole_BO=(seen_BOV & whole_BOV).sum(axis=-1, dtype=jnp.int32),
        count_BO=count_BO,
    )
