# ruff: noqa: E402 (it runs without being installed, and keeps JAX away from devices)
"""What a layer does besides matrix products and attention, as compiled: nothing is timed.

    python benchmarks/elementwise_aot.py [--chips h100 v5p] [--tokens 4096 32768]
        [--remat full minimal]

Compiles one training step of two layers as wide as Llama-2-7B for one device that is not here, and
reads the kernels of the loops over layers: what each is for, the bytes it moves, and its share of
the layer's least time: the sum over kernels of max(bytes / memory bandwidth, FLOPs / peak). For
each fusion that could be written by hand: the bytes that an ideal one would still move, and so the
most of a step that it can win. Needs the compilers of the extra [plan]; a minute for each case.
Writes benchmarks/results/elementwise_aot.md.
"""

import argparse
import collections
import dataclasses
import datetime
import itertools
import pathlib
import platform
import subprocess
import sys
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llama_jax.core import compilers

compilers.without_accelerators()

from llama_jax.config import presets
from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.config.train import TrainConfig
from llama_jax.planning import hlo, layer, program, topology
from llama_jax.planning.layer import Kernel
from llama_jax.telemetry.hardware import Chip

RESULT = ROOT / "benchmarks" / "results" / "elementwise_aot.md"
TOPOLOGIES = {"h100": "gpu:h100:1", "v5p": "tpu:v5p:2x2x1"}
ATTENTION = {"h100": "gpu", "v5p": "tpu"}
LAYERS, MIB = 2, 2**20
REACHED = 0.62  # Share of the peak that products of this size reach in a fast step.
WORTH = 3.0  # Percent of a step from which a fusion is worth a kernel.


@dataclasses.dataclass(frozen=True)
class Case:
    """One compiled step."""

    chip: str
    tokens: int
    remat: str

    @property
    def config(self) -> TrainConfig:
        """Returns the run: one row of so many tokens."""
        model = dataclasses.replace(presets.LLAMA2_7B, layers=LAYERS, context=self.tokens)
        mixture = {"text": SourceConfig(path="text")}
        return TrainConfig(
            workdir="none",
            model=model,
            data=DataConfig(
                tokenizer="bytes", mixture=mixture, batch_size=1, sequence_length=self.tokens
            ),
            compute=ComputeConfig(remat=self.remat, attention=ATTENTION[self.chip]),
        )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A fusion that could be written: what it replaces, and the bytes it would still move."""

    name: str
    purposes: tuple[str, ...]
    embed: int = 0  # Arrays of tokens x D in 2 bytes, read or written.
    mlp: int = 0  # Arrays of tokens x F.

    def ideal(self, case: Case) -> int:
        """Returns the bytes of an ideal kernel, forward and backward."""
        model = case.config.model
        return 2 * case.tokens * (self.embed * model.embed + self.mlp * model.mlp)


CANDIDATES = (
    # Forward x -> y twice, again in the backward pass; then x, dy, the residual's gradient -> dx.
    Candidate(
        "RMSNorm and residual, one pass each way",
        ("RMSNorm", "residual and sums of gradients"),
        embed=4 + 4 + 8,
    ),
    Candidate("RoPE in attention's prologue, or in the projections' epilogue", ("RoPE",)),
    # gate, up -> hidden; gate, up, its gradient -> their gradients and hidden.
    Candidate("SwiGLU, one pass each way", ("SwiGLU",), mlp=3 + 6),
    Candidate("SwiGLU in the products' epilogues", ("SwiGLU",)),
    Candidate("zeros for padding in the projections' epilogue", ("zeros for padding",)),
    Candidate(
        "products that read and write the stacks of layers",
        ("reading from the stack of layers", "writing to the stack of layers"),
    ),
    Candidate("no copies", ("copies",)),
)


def measure(case: Case) -> tuple[list[Kernel], Chip, int]:
    """Returns the kernels of one layer, the chip's limits, and the step's peak of memory."""
    where = topology.parse(TOPOLOGIES[case.chip])
    devices = topology.devices(where)[:1]
    compiled = program.compile(case.config, where, devices)
    if compiled.out_of_memory:
        raise ValueError(f"{case} does not fit: {compiled.out_of_memory}")
    chip = topology.chip(devices)
    assert chip is not None
    return layer.kernels(compiled.text, LAYERS), chip, compiled.peak_bytes


def section(case: Case, every_kernel: bool) -> list[str]:
    """Returns the tables of one case."""
    found, chip, peak = measure(case)
    least, slower = (sum(k.seconds(chip, share) for k in found) for share in (1.0, REACHED))
    size = sum(k.bytes for k in found)
    lines = [
        f"## {case.chip}, {case.tokens:,} tokens, remat {case.remat}",
        "",
        f"{size / MIB:,.0f} MiB and {sum(k.flops for k in found) / 1e12:.2f} TFLOP a layer; least "
        f"time {1e3 * least:.2f} ms, {1e3 * slower:.2f} with products at {REACHED} of their peak. "
        f"The step of {LAYERS} layers holds {peak / 2**30:.2f} GiB.",
        "",
        "| kernels for | forward, number | MiB | backward, number | MiB | % of the least time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    purposes = collections.defaultdict(list)
    for kernel in found:
        purposes[kernel.purpose].append(kernel)
    for purpose, members in sorted(purposes.items(), key=lambda item: -time_of(item[1], chip)):
        cells = []
        for part in ("forward", "backward"):
            of_part = [k for k in members if k.part == part and k.bytes >= MIB]
            cells += [len(of_part), f"{sum(k.bytes for k in of_part) / MIB:,.0f}"]
        lines.append(show(purpose, *cells, f"{100 * time_of(members, chip) / least:.1f}"))
    lines += ["", *bounds(case, found, chip, least, slower), ""]
    return lines + (each(found, chip, least) if every_kernel else [])


def bounds(case: Case, found: list[Kernel], chip: Chip, least: float, slower: float) -> list[str]:
    """Returns the table of what each fusion can win at most."""
    lines = [
        f"| fusion | moves now, MiB | ideal | wins at most, % | with products at {REACHED} | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    assert chip.memory_bandwidth is not None
    for candidate in CANDIDATES:
        now = sum(k.bytes for k in found if k.purpose in candidate.purposes)
        saved = max(now - candidate.ideal(case), 0)
        seconds = saved / chip.memory_bandwidth
        most, fewer = 100 * seconds / least, 100 * seconds / slower
        verdict = "open" if most >= WORTH else "not worth a kernel"
        ideal = f"{min(candidate.ideal(case), now) / MIB:,.0f}"
        cells = f"{now / MIB:,.0f}", ideal, f"{most:.1f}", f"{fewer:.1f}", verdict
        lines.append(show(candidate.name, *cells))
    return lines


def each(found: list[Kernel], chip: Chip, least: float) -> list[str]:
    """Returns the table of the single kernels that move a MiB or more."""
    lines = ["| kernel | for | MiB | % | writes |", "|---|---|---:|---:|---|"]
    for kernel in layer.elementwise(found):
        if kernel.bytes >= MIB:
            share = f"{100 * kernel.seconds(chip) / least:.2f}"
            purpose = f"{kernel.purpose}, {kernel.part}"
            cells = f"`{kernel.name}`", purpose, f"{kernel.bytes / MIB:,.1f}", share
            lines.append(show(*cells, f"`{plain(kernel.results)}`"))
    return [*lines, ""]


def plain(shape: str) -> str:
    """Returns the shapes without their layouts."""
    return " ".join(f"{a.dtype}{list(a.dims)}".replace(" ", "") for a in hlo.arrays(shape))


def time_of(kernels: list[Kernel], chip: Chip) -> float:
    return sum(kernel.seconds(chip) for kernel in kernels)


def show(*cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def page(parts: list[str]) -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout[:12]
    names = ("jax", "jax-cuda13-plugin", "libtpu")
    have = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    head = [
        "# What a layer does besides products and attention, as compiled",
        "",
        f"{datetime.date.today()}, commit {commit}, `python {' '.join(sys.argv)}`; {have}; Python "
        f"{platform.python_version()}.",
        "",
        "Nothing was timed: no GPU and no TPU was there. One training step of two layers of "
        "Llama-2-7B's width, one row, bfloat16, one device. The least time of a layer is the sum "
        "over its kernels of max(bytes / memory bandwidth, FLOPs / peak) at data-sheet rates; what "
        "stands outside the layers makes every share of a whole step smaller. Bytes are those of "
        "`llama_jax/planning/traffic.py`: a GPU's caches are not modelled, and an update in place "
        "counts the old values too.",
        "",
    ]
    return "\n".join(head + parts).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chips", nargs="+", default=list(TOPOLOGIES), choices=TOPOLOGIES)
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 32768])
    parser.add_argument("--remat", nargs="+", default=["full", "minimal"])
    parser.add_argument("--output", default=RESULT, type=pathlib.Path)
    given = parser.parse_args()
    parts = []
    for case in itertools.starmap(Case, itertools.product(given.chips, given.tokens, given.remat)):
        parts += section(case, every_kernel=case.tokens == min(given.tokens))
        print(f"measured {case}", file=sys.stderr)
    text = page(parts)
    given.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
