"""Peak memory per device of one training step beside MaxText's, both compiled here for TPUs.

    python benchmarks/plan_maxtext.py --maxtext=/path/of/venv/bin/python

Llama-2-7B at 32,768 tokens, one row per device (or per context group), full remat, chunked or tiled
cross-entropy, float32 AdamW, bfloat16 products. MaxText is asked through its own `train_compile`,
https://github.com/AI-Hypercomputer/maxtext, in an environment of its own (Python 3.12), made by

    pip install -c constraints.txt jax libtpu flax optax orbax-checkpoint grain ml_collections
    pip install --no-deps maxtext==0.2.5
    pip install omegaconf pydantic tensorboardx aqtp sentencepiece transformers datasets jsonlines \
        drjax cloud-accelerator-diagnostics cloud-tpu-diagnostics google-cloud-storage tiktoken \
        ml-goodput-measurement pathwaysutils jinja2 pillow sympy qwix tokamax

Run this file with the same versions of jax and libtpu. Writes benchmarks/results/plan_maxtext.md.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

from llama_jax.core import compilers

RESULT = pathlib.Path(__file__).parent / "results" / "plan_maxtext.md"
ROOT = pathlib.Path(__file__).parents[1]
GIB = 2**30
# MaxText prints arguments and temporaries; the peak is asked of the same compiled program.
THEIRS = """
import runpy, sys, jax
analysis = jax.stages.Compiled.memory_analysis
def printed(self):
    a = analysis(self)
    print("PEAK", a.peak_memory_in_bytes, a.argument_size_in_bytes, a.temp_size_in_bytes)
    return a
jax.stages.Compiled.memory_analysis = printed
runpy.run_module("maxtext.trainers.pre_train.train_compile", run_name="__main__")
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """One step, as each of the two is told."""

    name: str
    topology: str
    settings: tuple[str, ...]
    theirs: tuple[str, ...]


CASES = (
    Case(
        "v5e-32, fsdp=8 context=4",
        "tpu:v5e:4x8",
        ("data.batch_size=8", "mesh.context=4"),
        (
            "compile_topology=v5e-32",
            "per_device_batch_size=0.25",
            "ici_fsdp_parallelism=8",
            "ici_context_parallelism=4",
        ),
    ),
    Case(
        "v5p-16, fsdp=8",
        "tpu:v5p:2x2x2",
        ("data.batch_size=8",),
        ("compile_topology=v5p-16", "per_device_batch_size=1", "num_vocab_tiling=8"),
    ),
    Case(
        "v6e-8, fsdp=8",
        "tpu:v6e:2x4",
        ("data.batch_size=8",),
        ("compile_topology=v6e-8", "per_device_batch_size=1", "num_vocab_tiling=8"),
    ),
)


def ours(case: Case) -> tuple[float, str]:
    """Returns the peak in GiB (nan on an error) and what is to be said about it."""
    settings = ("accumulate=1", "compute.remat=full", "compute.attention_chunk=1024")
    settings += case.settings
    flags = [f"--config.{setting}" for setting in settings]
    command = [sys.executable, "-m", "llama_jax.plan", f"--topology={case.topology}", "--json"]
    command += ["--config=configs/extend_llama2_7b_32k.py", "--noadvice", *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        return float("nan"), ended.stderr.strip().splitlines()[-1]
    found = json.loads(ended.stdout)
    return found["memory"]["peak"] / GIB, found["out_of_memory"]


def maxtext(python: pathlib.Path, case: Case) -> tuple[float, str]:
    """Returns the same of MaxText."""
    where = subprocess.run(
        [python, "-c", "import maxtext; print(maxtext.__path__[0])"],
        env=os.environ | compilers.ENVIRONMENT, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    arguments = [
        f"{where}/configs/base.yml",
        "model_name=llama2-7b",
        "compile_topology_num_slices=1",
        "max_target_length=32768",
        "remat_policy=full",
        "attention=flash",
        "enable_checkpointing=false",
        "dataset_type=synthetic",
        *case.theirs,
    ]
    ended = subprocess.run(
        [python, "-c", THEIRS, *arguments],
        env=os.environ | compilers.ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if found := re.search(r"^PEAK (\d+) (\d+) (\d+)", ended.stdout, flags=re.M):
        peak, given, temporary = (int(n) / GIB for n in found.groups())
        return peak, f"arguments {given:.2f}, temporaries {temporary:.2f}"
    lines = [line for line in ended.stderr.splitlines() if "Error" in line or "RESOURCE" in line]
    return float("nan"), (lines or ["no answer"])[-1][:200]


def versions(python: str | pathlib.Path, *names: str) -> str:
    code = (
        "import importlib.metadata as m, sys\n"
        "print(*(n + ' ' + m.version(n) for n in sys.argv[1:]), sep=', ')"
    )
    ended = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def page(lines: list[str], python: pathlib.Path) -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return "\n".join(
        [
            "# Peak memory beside MaxText",
            "",
            f"- Date: {datetime.date.today()}",
            f"- Compiled on {os.cpu_count()} CPU cores, {platform.machine()}; nothing was run",
            f"- Ours: Python {platform.python_version()}, "
            + versions(sys.executable, "jax", "libtpu", "flax"),
            f"- MaxText: {versions(python, 'maxtext', 'jax', 'libtpu', 'flax')}",
            f"- Commit: {commit}",
            "- Command: `python benchmarks/plan_maxtext.py --maxtext=...`",
            "",
            "Llama-2-7B, 32,768 tokens, full remat; GiB per device that the compiler's analysis",
            "gives as the peak, arguments included.",
            "",
            "| case | ours | MaxText | ratio | notes |",
            "|---|---:|---:|---:|---|",
            *lines,
            "",
        ]
    )


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("--maxtext", required=True, type=pathlib.Path, help="its Python")
    flags.add_argument("--output", default=RESULT, type=pathlib.Path)
    given = flags.parse_args()
    lines = []
    for case in CASES:
        (mine, note), (theirs, their_note) = ours(case), maxtext(given.maxtext, case)
        cells = [case.name, f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}"]
        notes = "; ".join(filter(None, [note and f"ours: {note}", f"MaxText: {their_note}"]))
        lines.append("| " + " | ".join([*cells, notes]) + " |")
        print(lines[-1], flush=True)
    given.output.write_text(page(lines, given.maxtext))
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
