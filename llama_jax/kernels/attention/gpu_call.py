"""How the Hopper kernels are called: which block computes what, shared memory, barriers.

B batch, O own tiles of a block, E blocks of one head, N query heads, K key heads, H head size.
"""

import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama_jax.kernels.attention.gpu_block import Place, Share, place_of
from llama_jax.kernels.attention.gpu_schedule import Visits
from llama_jax.kernels.attention.gpu_tile import Hardware, operations
from llama_jax.kernels.attention.gpu_tiles import WARPGROUPS, Setup, Tiles

copy = plgpu.copy_gmem_to_smem  # (main memory, shared memory, barrier that it arrives at)


def call(
    kernel: Callable,
    name: str,
    setup: Setup,
    visits: Visits,
    *,
    heads: int,
    heads_together: int,
    inputs: Mapping[str, jax.Array],
    outputs: Mapping[str, jax.ShapeDtypeStruct],
    scratch: Mapping[str, Any],
    sums: Mapping[str, jax.Array] = MappingProxyType({}),
) -> list[jax.Array]:
    """Returns the outputs of `kernel(ops, place, refs)` over all blocks, and then the sums.

    Where items are dealt it is `kernel(ops, share, refs)`. `refs` has every input, sum, output and
    piece of scratch memory under its name. Blocks go through `heads_together` heads at a time,
    which share what they read. To `sums`, as they are given, blocks add.
    """
    lists = visits.block_E, visits.tile_BOV, visits.whole_BO, visits.count_BO
    items, item_WP = visits.block_E.shape[0] * heads, visits.item_WP
    ops = operations(setup.interpret)

    def entry(block_E, tile_BOV, whole_BO, count_BO, *refs):
        def place(item):
            return place_of(item, heads_together, block_E, tile_BOV, whole_BO, count_BO)

        index = lax.axis_index("block")
        work = place(index) if item_WP is None else Share(index, refs[0], place)
        named = dict(zip([*inputs, *sums, *outputs], refs[item_WP is not None :], strict=True))

        def block(**scoped):
            kernel(ops, work, SimpleNamespace(**named, **scoped))

        pl.run_scoped(block, collective_axes="warpgroup", **scratch)

    # Not plgpu.kernel, which takes no memory that is changed in place.
    run = pl.kernel(
        entry,
        out_type=list(outputs.values()),
        mesh=plgpu.Mesh(
            grid=(items if item_WP is None else item_WP.shape[1],),
            grid_names=("block",),
            num_threads=WARPGROUPS + 1,
            thread_name="warpgroup",
        ),
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=simulator() if setup.interpret else False,
        name=name,
    )

    @jax.jit  # Memory to change in place is only to be had in a compiled function.
    def compiled(arrays, sums):
        refs = [jax.new_ref(x, memory_space=plgpu.GMEM) for x in sums]
        results = run(*arrays, *refs)
        return [*results, *(jax.freeze(ref) for ref in refs)]

    with simulated_gpu() if setup.interpret else contextlib.nullcontext():
        dealt = () if item_WP is None else (item_WP,)
        return compiled((*lists, *dealt, *inputs.values()), tuple(sums.values()))


def run_roles(ops: Hardware, compute: Callable[[jax.Array], None], fetch: Callable) -> None:
    """Calls `compute(warpgroup)` in those that compute, and `fetch()` in the one that fetches."""
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < WARPGROUPS)
    def _compute():
        ops.computes()
        compute(warpgroup)

    @pl.when(warpgroup == WARPGROUPS)
    def _fetch():
        ops.fetches()
        fetch()


def fetch_keys(tiles: Tiles, G: int, place: Place, refs: SimpleNamespace, before: Any = 0) -> None:
    """Fetches keys with their lines, and values, of all visits into their rings.

    `before` is how many visits of other items went through the rings.
    """
    key_head = lax.div(place.head, jnp.int32(G))

    @pl.loop(0, place.count)
    def _visit(visit):
        stage = lax.rem(before + visit, jnp.int32(tiles.stages))
        keys = pl.ds(place.tile(visit) * tiles.keys, tiles.keys)
        lines = refs.k_lines.at[place.shared(refs.k_lines), :, keys]
        is_used = before + visit >= tiles.stages
        pl.when(is_used)(lambda: plgpu.barrier_wait(refs.k_free.at[stage]))
        copy(refs.k.at[place.row, keys, key_head], refs.k_ring.at[stage], refs.k_here.at[stage])
        copy(lines, refs.line_ring.at[stage], refs.k_here.at[stage])
        pl.when(is_used)(lambda: plgpu.barrier_wait(refs.v_free.at[stage]))
        copy(refs.v.at[place.row, keys, key_head], refs.v_ring.at[stage], refs.v_here.at[stage])


def wait_until_free(steps: jax.Array, stages: int, *free: Any) -> None:
    """Waits until what was fetched last has been used, so that no barrier is left half-way."""

    @pl.loop(jnp.maximum(steps - stages, 0), steps)
    def _stage(step):
        for barrier in free:
            plgpu.barrier_wait(barrier.at[lax.rem(step, jnp.int32(stages))])


def store(*results: tuple[jax.Array | None, Any, Any]) -> None:
    """Writes (registers, shared memory, main memory): through the shared one where types agree.

    Registers may be None: then they are in shared memory already.
    """
    for registers, tile, ref in results:
        if registers is not None and ref.dtype == tile.dtype:
            tile[...] = registers.astype(tile.dtype)
        elif registers is not None:
            ref[...] = registers
    plgpu.commit_smem()
    for registers, tile, ref in results:
        if registers is None or ref.dtype == tile.dtype:
            plgpu.copy_smem_to_gmem(tile, ref)
    plgpu.wait_smem_to_gmem(0)


def simulator() -> Any:
    """Returns JAX's simulator of a GPU's memories, threads and barriers, which reports races."""
    from jax._src.pallas.mosaic_gpu.interpret import params

    return params.InterpretGPUParams(detect_races=True)


def simulated_gpu() -> Any:
    """Returns the context in which kernels may be traced without a GPU."""
    from jax._src.mesh import AbstractDevice

    device = AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def operand(*shape: int, dtype: Any, swizzle: int = 128) -> Any:
    """Returns shared memory for operands of the tensor cores, [..., tokens, H].

    Columns lie in pieces of `swizzle` bytes. Factors of one product agree in it.
    """
    kinds: Any = plgpu  # jax 0.11 declares both abstract, which they are not.
    columns = swizzle // jnp.dtype(dtype).itemsize
    transforms = kinds.TilingTransform((8, columns)), kinds.SwizzleTransform(swizzle)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def numbers(*shape: int, dtype: Any = jnp.float32) -> Any:
    """Returns shared memory for numbers of tokens."""
    return plgpu.SMEM(shape, dtype)


def barrier(count: int, arrivals: int = 1) -> Any:
    """Returns barriers; one lets waiters pass after so many arrivals."""
    return plgpu.Barrier(num_arrivals=arrivals, num_barriers=count)
