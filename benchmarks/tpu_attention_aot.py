"""Attention kernels for TPUs beside those of JAX and tokamax, compiled here: no TPU is timed.

    python benchmarks/tpu_attention_aot.py

Value and gradients of causal attention in bfloat16, H = 128, each implementation in a process of
its own with the same tiles: temporary memory and compile time at 32,768 tokens and 32 heads, at
131,072 and 8; instruction bundles that the compiler schedules for 1024 x 1024 scores; and how many
tiles packed rows visit. tokamax where it is installed (0.0.12 needs Python 3.12). Writes
benchmarks/results/tpu_attention_aot.md.
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "tpu_attention_aot.md"
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# "512": tiles in pieces of 512 keys, as ours; the others' pieces are whole tiles.
IMPLEMENTATIONS = ("ours", "splash", "splash 512", "splash fused", "tokamax", "tokamax dq3")
KERNELS = {  # Parts of names: forward, and what the backward pass adds up.
    "ours": ("attention_forward", ("attention_backward",)),
    "splash": ("splash_mha_fwd", ("splash_mha_dkv", "splash_mha_dq")),
    "splash 512": ("splash_mha_fwd", ("splash_mha_dkv", "splash_mha_dq")),
    "splash fused": ("splash_mha_fwd", ("splash_mha_dkv",)),
    "tokamax": ("splash_mha_fwd", ("splash_mha_dkv",)),
    "tokamax dq3": ("splash_mha_fwd", ("splash_mha_dkv",)),
}
H, TILE, MIB = 128, 1024, 2**20
MEAN_DOCUMENT = 4096
THEIR_TILES = dict.fromkeys(("block_q", "block_kv", "block_q_dkv", "block_kv_dkv"), TILE)
THEIR_PIECES = "block_kv_compute", "block_kv_dkv_compute"  # Keys of a tile at a time.


def attend(implementation: str, N: int, S: int, device_kind: str):
    """Returns the function of q, k, v [1, N, S, H]; theirs want q scaled, which models fuse."""
    if implementation == "ours":
        from llama_jax.kernels.attention import api
        from llama_jax.kernels.attention.mask import Mask

        def ours(*heads_first):
            qkv = (x.swapaxes(1, 2) for x in heads_first)
            return api.attention(*qkv, Mask(), "tpu", device_kind=device_kind).swapaxes(1, 2)

        return ours
    make = theirs_of_jax if "splash" in implementation else theirs_of_tokamax
    kernel = make(implementation, N, S)
    return lambda q, k, v: kernel(q[0], k[0], v[0])[None]


def theirs_of_jax(implementation: str, N: int, S: int):
    import jax
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    fused, piece = "fused" in implementation, 512 if "512" in implementation else TILE
    blocks = kernel.BlockSizes(
        **THEIR_TILES,
        **dict.fromkeys(THEIR_PIECES, piece),
        block_q_dq=None if fused else TILE,
        block_kv_dq=None if fused else TILE,
        use_fused_bwd_kernel=fused,
    )
    mask = masks.MultiHeadMask([masks.CausalMask((S, S))] * N)
    with jax.ensure_compile_time_eval():
        return kernel.make_splash_mha(mask, block_sizes=blocks, head_shards=1, q_seq_shards=1)


def theirs_of_tokamax(implementation: str, N: int, S: int):
    import jax
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as kernel
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as masks

    config = kernel.SplashConfig(
        **THEIR_TILES,
        **dict.fromkeys(THEIR_PIECES, TILE),
        use_fused_bwd_kernel=True,
        dq_reduction_steps=3 if "dq3" in implementation else None,
    )
    with jax.ensure_compile_time_eval():
        return kernel.make_splash_mha(masks.CausalMask((S, S)), config=config, q_seq_shards=1)


def measure(chip: str, implementation: str, N: int, S: int) -> dict:
    """Returns what the compiler says of value and gradients."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    described = topologies.get_topology_desc(topology_name=TOPOLOGIES[chip], platform="tpu")
    device = described.devices[0]
    function = attend(implementation, N, S, device.device_kind)

    def run(q, k, v, grad):
        out, back = jax.vjp(function, q, k, v)
        return out, *back(grad)

    place = NamedSharding(Mesh(np.array([device]), ("x",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((1, N, S, H), jnp.bfloat16, sharding=place)
    lowered = jax.jit(run).lower(x, x, x, x)
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"error": "out of memory"}
    seconds = time.monotonic() - start
    temp = compiled.memory_analysis().temp_size_in_bytes
    return {"temp_mib": temp / MIB, "compile_s": seconds}


def in_a_process(chip: str, implementation: str, N: int, S: int, dump: str | None = None) -> dict:
    """Returns `measure` of a fresh process, or what went wrong."""
    from llama_jax.core import compilers
    from llama_jax.kernels.attention import bundles

    quiet = dict(compilers.ENVIRONMENT, PYTHONPATH=str(ROOT))
    flags = {"LIBTPU_INIT_ARGS": bundles.FLAGS.format(folder=dump)} if dump else {}
    job = json.dumps([chip, implementation, N, S])
    done = subprocess.run(
        [sys.executable, __file__, "--measure", job],
        capture_output=True,
        text=True,
        env=os.environ | quiet | flags,
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines() or ["nothing"]
        return {"error": said[-1][:120]}


def scheduled(chip: str, implementation: str) -> dict:
    """Returns bundles of (forward, backward), each without and with a mask where they differ."""
    from llama_jax.kernels.attention import bundles

    folder = tempfile.mkdtemp()
    try:
        found = in_a_process(chip, implementation, 8, 8192, folder)
        if "error" in found:
            return found
        path = pathlib.Path(folder)
        forward, backward = KERNELS[implementation]
        parts = [bundles.hot_regions(path, forward)]
        parts += [bundles.hot_regions(path, name) for name in backward]
    finally:
        shutil.rmtree(folder)
    if not all(parts):
        return {"error": "this libtpu wrote no dumps"}
    ends = [(regions[0], regions[-1]) for regions in parts]
    fast, slow = zip(*ends, strict=True)
    return {
        "forward": (fast[0].bundles, slow[0].bundles),
        "backward": (sum(r.bundles for r in fast[1:]), sum(r.bundles for r in slow[1:])),
        "unit": (fast[0].matrix_unit, fast[1].matrix_unit),
    }


def tables(chip: str) -> list[str]:
    """Returns the two tables of one chip."""
    lines = [
        f"## {chip}",
        "",
        "| | temporaries, MiB: 32K x 32 heads | compile, s | 128K x 8 heads | compile, s |",
        "|---|---:|---:|---:|---:|",
    ]
    for implementation in IMPLEMENTATIONS:
        cells = []
        for N, S in ((32, 32768), (8, 131072)):
            found = in_a_process(chip, implementation, N, S)
            if "error" in found:
                cells += [found["error"], ""]
            else:
                cells += [f"{found['temp_mib']:,.1f}", f"{found['compile_s']:.1f}"]
        lines.append(show(implementation, *cells))
    lines += [
        "",
        f"Bundles for {TILE} x {TILE} scores without a mask (and with one, where a kernel has code "
        "for both), and as a share of the fewer of splash's two; MXU: share of the matrix "
        "unit's slots in use, without a mask.",
        "",
        "| | forward | / splash | MXU | backward | / splash | MXU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    measured = {name: scheduled(chip, name) for name in IMPLEMENTATIONS}
    splash = (measured[name] for name in ("splash", "splash 512"))
    rivals = [found for found in splash if "error" not in found]
    for implementation, found in measured.items():
        if "error" in found:
            lines.append(show(implementation, found["error"], *[""] * 5))
            continue
        cells = []
        for part, unit in zip(("forward", "backward"), found["unit"], strict=True):
            fast, slow = found[part]
            both = f"{fast:,}" if fast == slow else f"{fast:,} ({slow:,})"
            fewest = min((rival[part][0] for rival in rivals), default=float("nan"))
            cells += [both, f"{fast / fewest:.2f}", f"{unit:.2f}"]
        lines.append(show(implementation, *cells))
    return [*lines, ""]


def visits() -> list[str]:
    """Returns the table of tiles that packed rows visit."""
    import jax.numpy as jnp
    import numpy as np

    from llama_jax.kernels.attention import schedule, tiles
    from llama_jax.kernels.attention.mask import Mask

    lines = [
        "## Tiles that a packed row visits",
        "",
        f"Documents of {MEAN_DOCUMENT:,} tokens on average (exponential law), tiles of {TILE} x "
        f"{TILE}. Splash masks by document and visits every causal tile.",
        "",
        "| tokens | hold a pair that is seen | ours | / needed | splash | / needed |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    size = tiles.Tiles(TILE, TILE, TILE // 2)
    for S in (32768, 65536, 131072):
        rng = np.random.default_rng(S)
        lengths = rng.exponential(MEAN_DOCUMENT, 8 * S // MEAN_DOCUMENT).astype(int) + 1
        segment_S = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:S].astype(np.int32)
        how = tiles.Setup(size, size, True, 2**27)
        plan = schedule.make(Mask.packed(jnp.asarray(segment_S)[None]), how, 1, S, S)
        begins = np.searchsorted(segment_S, segment_S[::TILE])  # Of each tile's first document.
        needed = int((np.arange(0, S, TILE) // TILE - begins // TILE + 1).sum())
        ours, causal = int(plan.forward.count), (S // TILE) * (S // TILE + 1) // 2
        lines.append(
            show(f"{S:,}", needed, ours, f"{ours / needed:.2f}", causal, f"{causal / needed:.2f}")
        )
        progress(f"packed row of {S:,}")
    return lines


def show(*cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def progress(what: str) -> None:
    print(f"measured {what}", file=sys.stderr)


def versions() -> str:
    names = ("jax", "libtpu", "tokamax")
    have = {name: version(name) for name in names}
    return ", ".join(f"{name} {have[name] or 'not installed'}" for name in names)


@functools.cache
def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def page(parts: list[str]) -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout[:12]
    head = [
        "# Attention kernels for TPUs, as compiled",
        "",
        f"{datetime.date.today()}, commit {commit}, `python benchmarks/tpu_attention_aot.py`; "
        f"{versions()}; Python {platform.python_version()}.",
        "",
        "No TPU was timed: the programs were compiled by libtpu on a CPU. Value and gradients of "
        "causal attention, bfloat16, head size 128, tiles of 1024 x 1024 for all. "
        "A bundle is what a core issues in a cycle if nothing stalls; compare counts of one chip.",
        "",
    ]
    return "\n".join(head + parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", nargs="+", default=list(TOPOLOGIES), choices=TOPOLOGIES)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*json.loads(arguments.measure))))
        return
    parts = []
    for chip in arguments.chips:
        parts += tables(chip)
        progress(chip)
    parts += visits()
    text = page(parts)
    RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
