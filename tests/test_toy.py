"""Every training recipe runs as a toy on real text: ten steps, and a lower loss."""

import json
import pathlib

import pytest
from test_configs import RECIPES, load_recipe

from llama_jax import train
from llama_jax.config import load, toy
from llama_jax.config.train import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]
TRAINED = [
    path
    for path in RECIPES
    if "llama_jax.train" in path.read_text() and not path.stem.startswith("demo")
]


def losses(workdir: pathlib.Path) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [entry["train/loss"] for entry in map(json.loads, lines) if "train/loss" in entry]


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_a_recipe_learns_as_a_toy(path, shared, tmp_path):
    config = load_recipe(path).get_config()
    toy.shrink(config)
    config.toy = True
    config.workdir = str(tmp_path / "run")
    config.data.tokenizer = str(shared / "weights/stories260K/tok512.model")
    config.model.vocab = 512 + config.model.vocab - 32_000  # As many rows are added.
    text = (shared / "data/tinyshakespeare/input.txt").read_text()
    documents = [json.dumps({"text": text[i : i + 1000]}) for i in range(0, 200_000, 1000)]
    (tmp_path / "texts.jsonl").write_text("\n".join(documents))
    evaluators = config.evaluation.evaluators.values()
    for source in [*config.data.mixture.values(), *(each.source for each in evaluators)]:
        source.path, source.loss = str(tmp_path / "texts.jsonl"), "all"
    assert train.main(load.parse(TrainConfig, config)) == 0
    found = losses(tmp_path / "run")
    assert len(found) == toy.STEPS
    assert sum(found[-3:]) / 3 < found[0] - 0.3
