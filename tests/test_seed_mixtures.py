"""The published mixtures, from real slices to rows of 32,768 tokens, whoever trains on them.

Each is prepared by its own recipe, trained on by its own recipe as a toy with the full length, by
two processes that are killed, and continued by one: every step has the rows that the plan says.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest
from test_configs import load_recipe

from llama_jax.config import load, toy
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.train import TrainConfig
from llama_jax.data.batch import content_hash
from llama_jax.data.loader import Loader
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.text.tokenizer import load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.process]

ROOT = pathlib.Path(__file__).parents[1]
LENGTH, STEPS = 32_768, 4
LIMIT = 1200  # Seconds for one start.


def set_to(prefix, **settings):
    return [f"--config.{prefix}{name}={value}" for name, value in settings.items()]


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))


def phase1(shared, _):
    red = shared / "data/redpajama"
    paths = {"books": red / "book", "arxiv": red / "arxiv", "redpajama": red, "ul2": red / "c4-rp"}
    return {**paths, "sets": shared / "data/eval_sets"}, []


def phase2(shared, folder):
    """Real texts; those of P3 and the Pile are in the shape of their records."""
    red = shared / "data/redpajama"
    answered = json.loads((shared / "data/sft/llama_factory/alpaca_en_demo.json").read_text())
    write(
        folder / "p3.jsonl",
        [{"inputs": e["instruction"], "targets": e["output"]} for e in answered],
    )
    books = [path.read_text() for path in sorted((shared / "data/books").glob("*.txt"))]
    write(folder / "pile.jsonl", [{"text": t, "meta": {"pile_set_name": "Books"}} for t in books])
    paths = {
        "natural_instructions": shared / "data/natural_instructions",
        "p3": folder / "p3.jsonl",
        "pile": folder / "pile.jsonl",
        "books": red / "book",
        "arxiv": red / "arxiv",
    }
    return {**paths, "sets": shared / "data/eval_sets"}, []


def mqa(shared, _):
    path = shared / "data/lost_in_the_middle"
    flags = [
        "record=lost_in_the_middle",
        "pattern=nq-open-20*at_0*",
        "questions.least_documents=20",
    ]
    return {"mqa": path}, [
        "--config.held_out=0.0",
        *(f"--config.sources.mqa.{flag}" for flag in flags),
    ]


def booksum(shared, folder):
    """Real alignments; the texts that they name are cut from real books."""
    name = "chapter-level-summary-alignments/chapter_summary_aligned_val_split.jsonl"
    lines = (shared / "data/booksum" / name).read_text().splitlines()[:12]
    book = (shared / "data/books/345.txt").read_text()
    for i, line in enumerate(lines):
        alignment, text = json.loads(line), book[40_000 * i : 40_000 * (i + 1)]
        for path, part in (("chapter_path", text), ("summary_path", text[:1500])):
            file = folder / "booksum" / alignment[path]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(part)
    (folder / "booksum/alignments.jsonl").write_text("\n".join(lines))
    return {"booksum": folder / "booksum"}, []


def instruct(shared, folder):
    answered = json.loads((shared / "data/sft/llama_factory/alpaca_en_demo.json").read_text())
    texts = [f"[INST]  {each['instruction']}  [/INST]  {each['output']}" for each in answered]
    write(folder / "instructions.jsonl", [{"text": text} for text in texts])
    paths, flags = mqa(shared, folder)
    flags += [f"--config.sources.{name}.documents=0" for name in ("instruct", "booksum", "mqa")]
    return {"instruct": folder / "instructions.jsonl", **booksum(shared, folder)[0], **paths}, flags


MIXTURES = {
    "phase1": ("data_llama2_7b_32k_phase1", "llama2_7b_32k_phase1", phase1),
    "phase2": ("data_llama2_7b_32k_phase2", "llama2_7b_32k_phase2", phase2),
    "mqa": ("data_llama2_7b_32k_mqa", "finetune_llama2_7b_32k_mqa", mqa),
    "booksum": ("data_llama2_7b_32k_booksum", "finetune_llama2_7b_32k_booksum", booksum),
    "instruct": ("data_llama2_7b_32k_instruct", "llama2_7b_32k_instruct", instruct),
}


def prepare(recipe, paths, more, tokenizer, output):
    flags = set_to("", tokenizer=tokenizer, output=output)
    for name, path in paths.items():
        flags += [
            f"--config.{'decontaminate.sets' if name == 'sets' else f'sources.{name}.path'}={path}"
        ]
    command = [sys.executable, "-m", "llama_jax.prepare", f"--config=configs/{recipe}.py"]
    subprocess.run([*command, *flags, *more], cwd=ROOT, check=True, timeout=LIMIT)


def changes(recipe, data, workdir):
    """Returns what makes a recipe small enough to run here at its whole length."""
    names = list(load_recipe(ROOT / f"configs/{recipe}.py").get_config().data.mixture)
    return {
        "toy": True,
        "workdir": str(workdir),
        "steps": STEPS,
        "accumulate": 1,
        "model.layers": 1,
        "model.heads": 1,
        "model.kv_heads": 1,
        "model.context": LENGTH,
        "data.sequence_length": LENGTH,
        "data.batch_size": 2,
        "data.tokenizer": f"{data}/tokenizer",
        "compute.attention_chunk": 1024,
        "compute.dtype": "float32",
        "loss.chunk": 2048,
        "checkpoint.every": 1,
    } | {f"data.mixture.{name}.path": f"{data}/{name}/train" for name in names}


def planned(recipe, settings, cache):
    """Returns the hashes of the batches, of the plan alone."""
    config = load_recipe(ROOT / f"configs/{recipe}.py").get_config()
    toy.shrink(config)
    config.update_from_flattened_dict(settings)
    config = load.parse(TrainConfig, config)
    layout = Layout(make_mesh(MeshConfig(data=1, fsdp=1), jax.devices()[:1]), config.sharding)
    tokenizer = load_tokenizer(config.data.tokenizer)
    batches = Loader(config.data, config.seed, tokenizer, cache, layout).batches(0)
    return [int(content_hash(next(batches))) for _ in range(STEPS)]


def logged(workdir):
    """Returns the newest hash of each step's batch."""
    path = workdir / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return {line["step"]: line["train/batch_hash"] for line in lines if "train/batch_hash" in line}


def start(recipe, settings, processes):
    launcher = [sys.executable, "launch/local.py", f"--processes={processes}", "--cpu-devices=1"]
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "llama_jax.train", f"--config=configs/{recipe}.py", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*launcher, "--", *command], cwd=ROOT, env=environment)


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("name", list(MIXTURES))
def test_a_published_mixture_from_slices_to_the_same_rows_on_other_hosts(name, shared, tmp_path):
    data_recipe, recipe, inputs = MIXTURES[name]
    data, workdir = tmp_path / "data", tmp_path / "run"
    tokenizer = shared / "tokenizers/llama2/tokenizer.model"
    prepare(data_recipe, *inputs(shared, tmp_path), tokenizer, data)
    settings = changes(recipe, data, workdir)
    two, deadline = start(recipe, settings, 2), time.monotonic() + LIMIT
    while len(logged(workdir)) < 2:
        assert two.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    two.terminate() if name == "phase2" else two.kill()
    two.wait()
    before = logged(workdir)
    one = start(recipe, settings, 1)
    assert one.wait(LIMIT) == 0
    after = logged(workdir)
    assert len(before) < STEPS and list(after) == list(range(1, STEPS + 1))
    assert list(after.values()) == planned(recipe, settings, tmp_path / "cache")
    assert all(after[step] == value for step, value in before.items())
