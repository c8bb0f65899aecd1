"""How a plan grows with depth and with devices, and whether traffic follows its formulas.

    python benchmarks/plan_scaling.py [depth] [devices] [traffic] [--platform=gpu] [--repeats=3]

depth     compile time and program size of Llama-2-7B's layers at depths 2, 32, 80
devices   bytes of parameters, moments and gradients per device, 8 to 1,024 devices of a v5p
traffic   bytes that collectives move per device against the formulas below, for several meshes

Compiles for hardware that is not here; every compilation runs in a process of its own. Prints
tables, and writes them to benchmarks/results/plan_scaling.md with all three.

Formulas, received by each device in one micro-batch of remat "full", in bytes of the compute dtype.
L layers have matrices of W bytes each (after tensor parallelism), embedding and head of E; a device
has b rows of S tokens, of which X bytes are one [b, S, D] (https://jax-ml.github.io/scaling-book):

    fsdp x context    (3 L W + 2 E) (g - 1) / g    of g devices: layers are gathered forward and
                      backward, embedding and head once, all gradients scattered once
    data              2 (L W + E) / g (d - 1) / d  all-reduce of the gradients that a device holds
    context           3 L (2 b S K H) (c - 1) / c  keys and values gathered forward and backward, as
                      much of gradients scattered
    tensor            (5 L + 2) 2 X (t - 1) / t    all-reduces of the layers' two outputs, of one of
                      them again when recomputed, and of two gradients; of embedding and loss
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import subprocess
import sys

RESULT = pathlib.Path(__file__).parent / "results" / "plan_scaling.md"
ROOT = pathlib.Path(__file__).parents[1]
RECIPE = "configs/pretrain_llama2_70b.py"
# Llama-2-7B's layers, at 4,096 tokens, one row on each of 8 devices.
SHAPE = {
    "model.embed": 4096,
    "model.mlp": 11008,
    "model.heads": 32,
    "model.kv_heads": 32,
    "accumulate": 1,
    "data.batch_size": 8,
    "compute.remat": "full",
}
EIGHT = {"gpu": "gpu:h100:8", "tpu": "tpu:v5p:2x2x2"}
# On 2x2x2 and 4x4 XLA for TPUs writes reduce-scatter as all-reduce, twice the bytes.
TRAFFIC = {"gpu": "gpu:h100:8", "tpu": "tpu:v5e:2x4"}
SLICES = ("2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
DEPTHS = (2, 32, 80)
LAYERS = 4  # Of the traffic tables.
MESHES = (
    {"fsdp": 8},
    {"data": 2, "fsdp": 4},
    {"context": 2, "fsdp": 4},
    {"context": 8, "fsdp": 1},
    {"tensor": 2, "fsdp": 4},
)


def plan(topology: str, settings: dict) -> dict:
    """Returns the plan; {"error": ...} where the planner refuses."""
    flags = [f"--config.{path}={value}" for path, value in settings.items()]
    command = [sys.executable, "-m", "llama_jax.plan", f"--config={RECIPE}"]
    command += [f"--topology={topology}", *flags, "--json", "--noadvice"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode == 0:
        return json.loads(ended.stdout)
    return {"error": ended.stderr.strip().splitlines()[-1]}


def depth(platform_: str, repeats: int) -> list[str]:
    """Times are the fastest of `repeats`, the depths in turn: other work only ever slows."""
    lines = ["| layers | lower s | compile s | program MB |", "|---:|---:|---:|---:|"]
    runs: dict[int, list[list[float]]] = {layers: [] for layers in DEPTHS}
    for _ in range(repeats):
        for layers in DEPTHS:
            made = plan(EIGHT[platform_], SHAPE | {"model.layers": layers})
            times = [made["lower_seconds"], made["compile_seconds"]]
            runs[layers].append([*times, made["program_bytes"] / 1e6])
    found = [[min(values) for values in zip(*runs[layers], strict=True)] for layers in DEPTHS]
    for layers, values in zip(DEPTHS, found, strict=True):
        lines.append(line(layers, *(f"{value:.2f}" for value in values)))
    pairs = zip(found[0], found[-1], strict=True)
    ratios = [f"{last / first:.2f}" for first, last in pairs]
    lines.append(line(f"{DEPTHS[-1]} / {DEPTHS[0]}", *ratios))
    return ["", f"### Depth, {EIGHT[platform_]}", "", *show(lines)]


def devices() -> list[str]:
    lines = [
        "| devices | slice | params + moments GB | gradients GB | x devices / first | compiled |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    first = None
    for slice_ in SLICES:
        count = math.prod(map(int, slice_.split("x")))
        settings = {"model.layers": 2, "data.batch_size": count, "accumulate": 1}
        made = plan(f"tpu:v5p:{slice_}", settings)
        memory = made["memory"]
        state = memory["parameters"] + memory["optimizer"]
        first = first or state * count
        numbers = [f"{state / 1e9:.4f}", f"{memory['gradients'] / 1e9:.4f}"]
        ended = "out of memory" if made["out_of_memory"] else f"{made['compile_seconds']:.0f} s"
        numbers += [f"{state * count / first:.3f}", ended]
        lines.append(line(count, slice_, *numbers))
    title = "### Devices, v5p: two layers of Llama-2-70B, embedding and head"
    return ["", title, "", "1/N is 1.000 in the fifth column.", "", *show(lines)]


def traffic(platform_: str) -> list[str]:
    lines = [
        "| mesh | axes | kind | compiled GB | formula GB | ratio |",
        "|---|---|---|---:|---:|---:|",
    ]
    for mesh in MESHES:
        settings = SHAPE | {"model.layers": LAYERS}
        settings |= {f"mesh.{axis}": size for axis, size in mesh.items()}
        made = plan(TRAFFIC[platform_], settings)
        name = " ".join(f"{axis}={size}" for axis, size in mesh.items())
        if "error" in made:
            lines.append(line(name, made["error"], "", "", "", ""))
            continue
        lines += rows(name, made)
    return ["", f"### Traffic, {TRAFFIC[platform_]}, {LAYERS} layers", "", *show(lines)]


def rows(name: str, made: dict) -> list[str]:
    """Returns a line for each set of axes: the sum of its kinds, and the formula's."""
    expected, lines = formulas(made), []
    measured: dict[str, float] = {}
    for sent in made["collectives"]:
        axes = "+".join(sent["axes"])
        measured[axes] = measured.get(axes, 0.0) + sent["bytes"]
        if sent["bytes"] > 1e6:
            lines.append(line(name, axes, sent["kind"], f"{sent['bytes'] / 1e9:.3f}", "", ""))
    measured = {axes: size for axes, size in measured.items() if axes in expected or size > 1e7}
    for axes in sorted(measured.keys() | expected.keys()):
        found, formula = measured.get(axes, 0.0), expected.get(axes)
        cells = (f"{formula / 1e9:.3f}", f"{found / formula:.2f}") if formula else ("none", "")
        lines.append(line(name, axes, "**all**", f"{found / 1e9:.3f}", *cells))
    return lines


def formulas(made: dict) -> dict[str, float]:
    """Returns the bytes of one step by axis, by the formulas of this file's head."""
    config, mesh = made["settings"], made["mesh"]
    model, L = config["model"], config["model"]["layers"]
    D, K, H = model["embed"], model["kv_heads"], model["head_dim"]
    t, d, c = mesh["tensor"], mesh["data"], mesh["context"]
    g = mesh["fsdp"] * c
    W = 2 * (2 * D * (model["heads"] + K) * H + 3 * D * model["mlp"]) / t
    E = 2 * (2 * D * model["vocab"]) / t
    tokens = config["data"]["batch_size"] * config["data"]["sequence_length"] / (d * mesh["fsdp"])
    parts = {
        "+".join(axis for axis in ("fsdp", "context") if mesh[axis] > 1): share(
            g, 3 * L * W + 2 * E
        ),
        "data": share(d, 2 * (L * W + E) / g),
        "context": share(c, 3 * L * 2 * (2 * tokens * K / t * H)),
        "tensor": share(t, (5 * L + 2) * 2 * 2 * tokens / c * D),
    }
    if c == g:
        parts["context"] += share(g, 3 * L * W + 2 * E)
    return {axes: size for axes, size in parts.items() if size}


def share(devices: int, size: float) -> float:
    return size * (devices - 1) / devices


def line(*cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def show(lines: list[str]) -> list[str]:
    print("\n".join(["", *lines]), flush=True)
    return lines


def page(parts: list[str]) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return "\n".join(
        [
            "# Plans as work grows",
            "",
            f"- Date: {datetime.date.today()}",
            f"- Compiled on {os.cpu_count()} shared CPU cores, {platform.machine()}",
            f"- Python {platform.python_version()}",
            f"- Commit: {commit}",
            f"- Command: `{' '.join(['python', 'benchmarks/plan_scaling.py', *sys.argv[1:]])}`",
            "- Formulas stand in its head.",
            *parts,
            "",
        ]
    )


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("parts", nargs="*", default=["depth", "devices", "traffic"])
    flags.add_argument("--platform", choices=sorted(EIGHT), action="append")
    flags.add_argument("--repeats", default=3, type=int, help="compilations at each depth")
    flags.add_argument("--output", default=RESULT, type=pathlib.Path)
    given = flags.parse_args()
    platforms = given.platform or sorted(EIGHT)
    parts = []
    if "depth" in given.parts:
        parts += [text for name in platforms for text in depth(name, given.repeats)]
    if "devices" in given.parts:
        parts += devices()
    if "traffic" in given.parts:
        parts += [text for name in platforms for text in traffic(name)]
    if {"depth", "devices", "traffic"} <= set(given.parts):
        given.output.write_text(page(parts))
        print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
