"""How large the tiles of the Hopper kernels are: a table and the shared memory they take.

H head size. Two warpgroups compute, 64 rows each: those are the rows of one tensor core operation.
"""

import dataclasses

ROWS = 64  # Of one warpgroup.
TURNS = 2  # Of queries: the next ones are fetched while the last ones are used.
WARPGROUPS = 2  # That compute; a third one fetches.
SHARED_MEMORY = 227 * 2**10  # Bytes a block may use on a Hopper GPU.
HEAD_SIZES = 64, 128  # Others are padded with zeros to the next.
SIMULATED = 3  # Processors of the simulator, so that blocks have some items or none.
HOPPER = "NVIDIA H100", "NVIDIA H200", "NVIDIA GH200"  # How names of devices begin.


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One tile is `queries` by `keys` scores; `stages` of what is fetched are under way."""

    queries: int
    keys: int
    stages: int


@dataclasses.dataclass(frozen=True)
class Setup:
    """How the kernels compute one shape."""

    forward: Tiles
    dkv: Tiles
    dq: Tiles
    query_heads: int = 1
    key_heads: int = 1
    head_size: int = 128
    processors: int = 132  # Of the card; as many blocks of the forward kernel stay on it.
    interpret: bool = False  # Simulated, on any platform.


# By head size. A warpgroup has 64 rows of all sums in registers: 240 for each of its 128 threads.
# forward: scores and output, 64 x 128 each, are 64 + 64; the weights 32 more.
# dkv: dk and dv, 64 x 128, are 128, so only 64 queries at a time: 32 + 32 for scores and gradients.
# dq: 64, and two tiles of scores of 64 x 64: 32 + 32.
# The fused backward kernel takes the tiles of dkv, and half a tile of dq: 32.
# Stages fill the shared memory; see `bytes_used`.
TILES = {
    64: Setup(Tiles(128, 128, 4), Tiles(64, 128, 4), Tiles(128, 64, 4)),
    128: Setup(Tiles(128, 128, 2), Tiles(64, 128, 2), Tiles(128, 64, 3)),
}


def setup(N: int, K: int, H: int, device_kind: str = HOPPER[0], interpret: bool = False) -> Setup:
    """Returns how to compute N query heads and K key heads of size H.

    Raises:
        ValueError: The head size is larger than the kernels take.
    """
    return dataclasses.replace(
        TILES[padded_head(H)],
        query_heads=N,
        key_heads=K,
        head_size=H,
        processors=SIMULATED if interpret else processors(device_kind),
        interpret=interpret,
    )


def processors(device_kind: str) -> int:
    """Returns how many processors a Hopper GPU has, by the name that JAX gives it."""
    return 114 if "PCIe" in device_kind else 132


def is_hopper(device_kind: str) -> bool:
    """Returns whether a device, by the name that JAX gives it, runs these kernels."""
    return device_kind.startswith(HOPPER)


def padded_head(H: int) -> int:
    """Returns the size to which heads are filled up."""
    for size in HEAD_SIZES:
        if size >= H:
            return size
    raise ValueError(
        f"head_dim is {H}; the GPU attention kernel takes at most {HEAD_SIZES[-1]}. Use attention "
        "'chunked' there."
    )


def bytes_used(how: Setup, H: int) -> dict[str, int]:
    """Returns the shared memory of each kernel, in bytes, for heads of this padded size.

    Each holds its own tile of two operands, and stages of two others, in 16 bits; beside them a few
    32-bit numbers for each token.
    """
    own = WARPGROUPS * ROWS
    return {
        "forward": 2 * H * (TURNS * own + 2 * how.forward.stages * how.forward.keys)
        + 4 * ((3 * TURNS + 1) * own + 2 * how.forward.stages * how.forward.keys),
        "dkv": 2 * H * (2 * own + 2 * how.dkv.stages * how.dkv.queries)
        + 4 * (2 * own + 5 * how.dkv.stages * how.dkv.queries),
        "dq": 2 * H * (2 * own + 2 * how.dq.stages * how.dq.keys)
        + 4 * (5 * own + 2 * how.dq.stages * how.dq.keys),
        "fused": 2 * H * (2 * own + 2 * how.dkv.stages * how.dkv.queries)
        + 4 * (2 * own + 5 * how.dkv.stages * how.dkv.queries)
        + (2 * 2 * own + 4 * H) * how.dkv.queries,  # ds twice, and dq.
    }
