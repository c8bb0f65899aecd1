"""How large the tiles of the TPU kernels are, and which backward pass fits: a table and arithmetic.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
"""

import dataclasses

LANES = 128  # A tile's sizes are multiples of this.
MIB = 2**20
# Of a core's vector memory, what a kernel may ask for; the rest is the compiler's.
USABLE = 0.86


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One tile is `queries` by `keys` scores, computed in pieces of `piece` keys."""

    queries: int
    keys: int
    piece: int

    def __post_init__(self):
        sizes = self.queries, self.keys, self.piece
        if any(size < LANES or size % LANES for size in sizes) or self.keys % self.piece:
            raise ValueError(
                f"Tiles are {self.queries} queries by {self.keys} keys in pieces of {self.piece}; "
                f"all must be multiples of {LANES}, and the keys one of the piece."
            )

    def padded(self, T: int, S: int) -> tuple[int, int]:
        """Returns T and S filled up to whole tiles."""
        return -(-T // self.queries) * self.queries, -(-S // self.keys) * self.keys


@dataclasses.dataclass(frozen=True)
class Setup:
    """How the kernels compute one shape on one chip."""

    forward: Tiles
    backward: Tiles
    fused: bool  # The backward pass is one kernel that holds dq in vector memory.
    vmem: int  # Bytes of vector memory that the kernels may use.
    interpret: bool = False  # Simulated, on any platform.


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU core."""

    vmem: int  # MiB of vector memory: it decides which backward pass fits (tpu_info.py of JAX).
    tiles: dict[int, Tiles]  # By the longest row that each is for.


# What `tune.py` ranked: million bundles, forward + backward, of 8 heads of one causal row,
# bfloat16, H = 128 (libtpu 0.0.42.1), with tiles of 512 and of 1024 queries and keys.
#
#         4,096 tokens    32,768 tokens
#         512    1024     512     1024
#   v4    1.15   1.79     82.8    88.1
#   v5e   0.98   1.08     55.6    56.7    1024: a quarter of the visits, each of which costs time
#   v5p   0.95   1.07     54.2    55.9    the same
#   v6e   0.68   0.67     38.9    34.2    512 at 4,096: packed rows have more edges
#   v7x   0.67   0.66     38.3    33.7    the same
#
# A tile on the edge of what is seen computes pairs nobody sees: of a causal row, tile / S of the
# work, so 256 and 512 for short rows. Smaller tiles read keys more often: with fewer queries than
# operations per byte of memory bandwidth (v4 to v7x: 229, 240, 166, 560, 312; v6e and v7x reach
# half of their operations with heads of 128) a chip waits for its memory. Pieces of 512: one is
# multiplied while one is summed. A tile forward in two pieces, and in one (libtpu 0.0.48.1), each
# without and with a mask: v5e 4,212, 4,320 and 4,390, 4,464 bundles; v6e 2,696, 3,205 and 2,581,
# 3,662, and in packed rows most tiles have a mask.
LONGER = 2**31
_SHORT = {1024: Tiles(256, 256, 256), 4096: Tiles(512, 512, 512)}
_V4 = Chip(16, _SHORT | {LONGER: Tiles(512, 512, 512)})
_V5E = Chip(128, _SHORT | {LONGER: Tiles(1024, 1024, 512)})
_V5P = Chip(64, _SHORT | {LONGER: Tiles(1024, 1024, 512)})
_V6E = Chip(128, _SHORT | {LONGER: Tiles(1024, 1024, 512)})
_V7X = Chip(64, _SHORT | {LONGER: Tiles(1024, 1024, 512)})

# Names as in telemetry/hardware.py.
CHIPS = {"TPU v4": _V4, "TPU v5 lite": _V5E, "TPU v5": _V5P, "TPU v6 lite": _V6E, "TPU7x": _V7X}
CHIPS |= {"TPU v5e": _V5E, "TPU v5p": _V5P, "TPU v6e": _V6E}


def setup(
    chip: str, T: int, S: int, N: int, K: int, H: int, itemsize: int, interpret: bool = False
) -> Setup:
    """Returns how to compute attention of this shape.

    Raises:
        ValueError: The chip is not in the table.
    """
    if chip not in CHIPS:
        raise ValueError(
            f"the TPU attention kernel has no table entry for {chip!r}; it must be one of "
            f"{sorted(CHIPS)}. Use attention 'chunked' there."
        )
    tiles, vmem = fitting(CHIPS[chip], T, S), int(CHIPS[chip].vmem * MIB * USABLE)
    while backward_bytes(tiles, 0, H, itemsize) > vmem and min(tiles.queries, tiles.keys) > LANES:
        tiles = Tiles(*(max(size // 2 // LANES, 1) * LANES for size in dataclasses.astuple(tiles)))
    plain = Setup(tiles, tiles, False, vmem, interpret)
    return with_tiles(plain, tiles, T, N // K, H, itemsize)


def with_tiles(setup: Setup, tiles: Tiles, T: int, G: int, H: int, itemsize: int) -> Setup:
    """Returns the setup with other tiles, and the backward pass that fits with them."""
    queries = G * tiles.padded(T, T)[0]
    fused = backward_bytes(tiles, queries, H, itemsize) <= setup.vmem
    return dataclasses.replace(setup, forward=tiles, backward=tiles, fused=fused)


def fitting(chip: Chip, T: int, S: int) -> Tiles:
    """Returns the tiles for rows of this length, no larger than the rows themselves."""
    tiles = next(tiles for most, tiles in chip.tiles.items() if max(T, S) <= most)
    queries, keys = min(tiles.queries, _whole(T)), min(tiles.keys, _whole(S))
    return Tiles(queries, keys, tiles.piece if keys % tiles.piece == 0 else keys)


def backward_bytes(tiles: Tiles, queries: int, H: int, itemsize: int) -> int:
    """Returns the vector memory of a backward kernel that holds dq of so many queries.

    At 32,768 queries and H = 128: 16 MiB for dq, 3.5 for blocks in bfloat16 that are fetched and
    written twice buffered, 1 for dk and dv, 8 for four pieces of scores.
    """
    P, Q, C = tiles.queries, tiles.keys, tiles.piece
    width = _whole(H)
    blocks = 2 * (3 * P + 4 * Q) * width * itemsize
    return queries * width * 4 + blocks + 2 * Q * width * 4 + 4 * P * C * 4


def _whole(length: int) -> int:
    """Returns the length filled up to whole lanes."""
    return -(-length // LANES) * LANES
