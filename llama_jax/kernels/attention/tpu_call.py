"""How both passes call a kernel that visits tiles: the grid, and which blocks each visit needs.

B batch, T query tokens, S key tokens, N query heads, K key heads, H head size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from llama_jax.kernels.attention.schedule import LINES, Lines, Visits
from llama_jax.kernels.attention.tiles import Setup, Tiles

# Of the grid's indices (heads first, then the visit): which head. They come as in an index map.
Head = Callable[..., Any]

SCALAR_MEMORY = 900 * 2**10  # Bytes for lists, of 1 MiB that a core has.

# Two cores may share heads; visits follow each other.
_SEMANTICS: tuple[Literal["parallel", "arbitrary"], ...] = ("parallel", "arbitrary", "arbitrary")


class Blocks:
    """Block specifications of one tile; `q_head` and `k_head` choose heads from grid indices."""

    def __init__(self, tiles: Tiles, H: int, q_head: Head, k_head: Head):
        self.tiles, self.H, self.q_head, self.k_head = tiles, H, q_head, k_head

    def query(self) -> pl.BlockSpec:
        """Of [B, N, T, H]."""

        def index(*at):
            *grid, row_E, query_E, _, _ = at
            return row_E[grid[1]], self.q_head(*grid), query_E[grid[1]], 0

        return pl.BlockSpec((None, None, self.tiles.queries, self.H), index)

    def query_row(self) -> pl.BlockSpec:
        """Of [B, N, 1, T]."""

        def index(*at):
            *grid, row_E, query_E, _, _ = at
            return row_E[grid[1]], self.q_head(*grid), 0, query_E[grid[1]]

        return pl.BlockSpec((None, None, 1, self.tiles.queries), index)

    def key(self) -> pl.BlockSpec:
        """Of [B, K, S, H]."""

        def index(*at):
            *grid, row_E, _, key_E, _ = at
            return row_E[grid[1]], self.k_head(*grid), key_E[grid[1]], 0

        return pl.BlockSpec((None, None, self.tiles.keys, self.H), index)

    def lines(self, lines: Lines) -> tuple[pl.BlockSpec, pl.BlockSpec]:
        """Of the lines of queries and keys, which rows of the batch may share."""

        def index(rows: int, tile: int):
            def block(*at):
                *grid, row_E, query_E, key_E, _ = at
                row = row_E[grid[1]] if rows > 1 else 0
                return row, 0, (query_E, key_E)[tile][grid[1]]

            return block

        P, Q = self.tiles.queries, self.tiles.keys
        return (
            pl.BlockSpec((None, LINES, P), index(len(lines.q_BXT), 0)),
            pl.BlockSpec((None, LINES, Q), index(len(lines.k_BXS), 1)),
        )


def call(
    kernel: Callable,
    name: str,
    setup: Setup,
    tiles: Tiles,
    visits: Visits,
    *,
    products: int,
    grid: tuple,
    inputs: Sequence[tuple[jax.Array, pl.BlockSpec]],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
    scratch: Sequence[Any],
) -> list[jax.Array]:
    """Returns the outputs of `kernel(*visits, *inputs, *outputs, *scratch)` over the grid.

    The first dimension of the grid is that of heads, which are independent; the second is that of
    visits. `products` is how many matrix products each visit makes, of all scores of a tile.

    Raises:
        ValueError: The list of visits is too long.
    """
    (q_BNTH, _), (k_BKSH, _) = inputs[:2]
    _check_lists(visits, tiles)
    run = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=grid,
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec for _, spec in outputs],
            scratch_shapes=scratch,
        ),
        out_shape=[shape for shape, _ in outputs],
        name=name,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=_SEMANTICS[: len(grid)],
            vmem_limit_bytes=setup.vmem,
        ),
        cost_estimate=_cost(q_BNTH, k_BKSH, tiles, len(visits.row_E), products),
        interpret=setup.interpret,
    )
    lists = visits.row_E, visits.query_E, visits.key_E, visits.what_E
    return run(*lists, *(array for array, _ in inputs))


def _check_lists(visits: Visits, tiles: Tiles) -> None:
    needed = 4 * 4 * len(visits.row_E)
    if needed > SCALAR_MEMORY:
        raise ValueError(
            f"attention over these rows may visit {len(visits.row_E):,} tiles of {tiles.queries} x "
            f"{tiles.keys}, whose list takes {needed:,} bytes of a TPU's scalar memory; at most "
            f"{SCALAR_MEMORY:,} fit. Give a device fewer rows at a time (accumulate), or split "
            "them (mesh.context)."
        )


def scratch(*shape: int, dtype: Any = jnp.float32) -> Any:
    """Returns vector memory that lives as long as the kernel."""
    return pltpu.VMEM(shape, dtype)


def _cost(
    q_BNTH: jax.Array, k_BKSH: jax.Array, tiles: Tiles, visits: int, products: int
) -> pl.CostEstimate:
    """Returns what the compiler and the planner count: as if every visit of the list were made."""
    _, N, _, H = q_BNTH.shape
    scores = N * visits * tiles.queries * tiles.keys
    keys = N * visits * tiles.keys * H * 2
    return pl.CostEstimate(
        flops=2 * products * scores * H,
        transcendentals=scores,
        bytes_accessed=(2 * q_BNTH.size + keys) * q_BNTH.dtype.itemsize,
    )
