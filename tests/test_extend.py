"""The main job on really trained weights: a Llama of 260,000 parameters, context 512 -> 2,048.

convert (Hugging Face -> ours) -> train with interpolated positions on books -> evaluate -> convert
back -> load and generate, each by its command.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

TRAIN = '''
"""Extends."""
import dataclasses
from llama_jax.config import load
from llama_jax.config.data import SourceConfig
from llama_jax.config.model import ModelConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.config.train import TrainConfig

def get_config():
    c = load.default(TrainConfig)
    c.workdir, c.init_from, c.steps = "extended", "converted", 60
    c.model = load.default(ModelConfig(
        layers=5, embed=64, mlp=172, heads=8, kv_heads=4, head_dim=8, vocab=512, context=2048,
        tie_embeddings=True, rope=RopeConfig(scaling="linear", factor=4.0)))
    c.compute.dtype, c.compute.remat = "float32", "none"
    c.data.tokenizer = "{tokenizer}"
    c.data.mixture.books = load.default(SourceConfig(path="{books}", pattern="[!8]*.txt"))
    c.data.text.on_error = "skip"
    c.data.sequence_length, c.data.batch_size = 2048, 2
    c.optim.learning_rate, c.optim.warmup_steps, c.optim.weight_decay = 2e-3, 5, 0.0
    c.checkpoint.every, c.log.every = 60, 20
    return c
'''
EVALUATE = '''
"""Compares."""
from llama_jax.config import load
from llama_jax.config.data import SourceConfig
from llama_jax.config.evaluate import EvaluateConfig, EvaluatorConfig, SubjectConfig
from llama_jax.config.rope import RopeConfig

def get_config():
    c = load.default(EvaluateConfig)
    c.workdir, c.tokenizer = "evaluation", "{tokenizer}"
    rope = RopeConfig(scaling="linear", factor=4.0)
    c.subjects.unextended = load.default(SubjectConfig(checkpoint="converted", context=2048))
    c.subjects.untrained = load.default(
        SubjectConfig(checkpoint="converted", context=2048, rope=rope))
    c.subjects.trained = load.default(SubjectConfig(checkpoint="extended"))
    c.evaluators.frankenstein = load.default(EvaluatorConfig(
        source=SourceConfig(path="{books}/84-0.txt"), sequence_length=2048, rows=16, batch_size=4,
        buckets=4))
    c.compute.dtype = "float32"
    return c
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command of ours in a folder of its own and returns what it printed."""
    folder = tmp_path_factory.mktemp("extend")
    # This one computes: compile for speed. And one device, as a laptop has.
    environment = dict(os.environ) | {
        "XLA_FLAGS": "",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
    }

    def command(*arguments) -> str:
        result = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    command.folder = folder
    return command


def test_extension_lowers_perplexity_beyond_the_pretrained_context(run, shared):
    weights = shared / "weights" / "stories260K"
    names = {"tokenizer": weights / "tok512.model", "books": shared / "data" / "books"}
    (run.folder / "train.py").write_text(TRAIN.format(**names))
    (run.folder / "compare.py").write_text(EVALUATE.format(**names))
    run("llama_jax.convert", weights / "hf", "converted", "--format=orbax")
    run("llama_jax.train", "--config=train.py")
    run("llama_jax.evaluate", "--config=compare.py")

    results = json.loads((run.folder / "evaluation" / "results.json").read_text())
    found = {
        name: [bucket["perplexity"] for bucket in subject["by_position"]]
        for name, subject in results["results"]["frankenstein"].items()
    }
    for bucket in (1, 2, 3):  # From position 512 on.
        assert found["trained"][bucket] < found["unextended"][bucket], found
        assert found["trained"][bucket] < found["untrained"][bucket], found
    assert (run.folder / "evaluation" / "perplexity_by_position.png").stat().st_size > 10_000

    run("llama_jax.convert", "extended", "exported", "--format=hf")
    config = json.loads((run.folder / "exported" / "config.json").read_text())
    assert config["max_position_embeddings"] == 2048
    assert config["rope_scaling"] == {"type": "linear", "factor": 4.0}
    text = run(
        "llama_jax.generate", "--checkpoint=exported", "--prompt=Once upon a", "--max-new-tokens=8"
    )
    assert text.strip()
