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


# Vector memory of one core in MiB (jax/_src/pallas/mosaic/tpu_info.py); names as in
# telemetry/hardware.py. It decides what of the backward pass fits, and whether tiles are halved.
VMEM = {"TPU v4": 16, "TPU v5 lite": 128, "TPU v5": 64, "TPU v6 lite": 128, "TPU7x": 64}
VMEM |= {"TPU v5e": 128, "TPU v5p": 64, "TPU v6e": 128}

# From the longest row that each size is for; the last is for all longer ones. A tile on the edge of
# what is seen computes pairs nobody sees: of a causal row of S tokens, tile / S of the work. A
# smaller tile reads keys more often: below 512 queries, a v5e would wait for its memory.
TILES = {
    1024: Tiles(256, 256, 256),  # + 25 % at 1,024.
    4096: Tiles(512, 512, 512),  # + 13 % at 4,096; 3 % more bundles than 1,024.
}
LARGE = Tiles(1024, 1024, 512)  # + 3 % at 32K. Two pieces: one is multiplied while one is summed.


def setup(
    chip: str, T: int, S: int, N: int, K: int, H: int, itemsize: int, interpret: bool = False
) -> Setup:
    """Returns how to compute attention of this shape.

    Raises:
        ValueError: The chip is not in the table.
    """
    if chip not in VMEM:
        raise ValueError(
            f"the TPU attention kernel has no table entry for {chip!r}; it must be one of "
            f"{sorted(VMEM)}. Use attention 'chunked' there."
        )
    tiles, vmem = fitting(T, S), int(VMEM[chip] * MIB * USABLE)
    while backward_bytes(tiles, 0, H, itemsize) > vmem and min(tiles.queries, tiles.keys) > LANES:
        tiles = Tiles(*(max(size // 2 // LANES, 1) * LANES for size in dataclasses.astuple(tiles)))
    plain = Setup(tiles, tiles, False, vmem, interpret)
    return with_tiles(plain, tiles, T, N // K, H, itemsize)


def with_tiles(setup: Setup, tiles: Tiles, T: int, G: int, H: int, itemsize: int) -> Setup:
    """Returns the setup with other tiles, and the backward pass that fits with them."""
    queries = G * tiles.padded(T, T)[0]
    fused = backward_bytes(tiles, queries, H, itemsize) <= setup.vmem
    return dataclasses.replace(setup, forward=tiles, backward=tiles, fused=fused)


def fitting(T: int, S: int) -> Tiles:
    """Returns the tiles for rows of this length, no larger than the rows themselves."""
    longest = max(T, S)
    tiles = next((tiles for most, tiles in TILES.items() if longest <= most), LARGE)
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
