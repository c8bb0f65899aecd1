"""Every training recipe runs as a toy on real text: ten steps, and a lower loss."""

import dataclasses
import json
import pathlib
import shutil

import pytest
from test_configs import RECIPES, load_recipe

from llama_jax import convert, train
from llama_jax.checkpoint import layout
from llama_jax.config import load, toy
from llama_jax.config.train import TrainConfig
from llama_jax.converters import weights

ROOT = pathlib.Path(__file__).parents[1]
TRAINED = [
    path
    for path in RECIPES
    if "llama_jax.train" in path.read_text() and not path.stem.startswith(("demo", "lora", "qlora"))
]


def written(workdir: pathlib.Path, name: str) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]


# One of each kind; the others are the same with other numbers.
QUICK = {
    "pretrain_llama2_70b",
    "extend_llama2_7b_32k",
    "llama2_7b_32k_phase2",
    "finetune_llama2_7b_32k_mqa",
    "llama2_7b_32k_instruct",
    "llama2_13b_orca_8k",
}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in QUICK else [pytest.mark.slow], id=path.stem)
        for path in TRAINED
    ],
)
def test_a_recipe_learns_as_a_toy(path, shared, tmp_path):
    found = trained(path.stem, shared, tmp_path)
    assert sum(found[-3:]) / 3 < found[0] - 0.3


def trained(name: str, shared, tmp_path, **settings) -> list[float]:
    """Returns the losses of a recipe's toy, on a vocabulary that makes its steps quick."""
    config = load_recipe(ROOT / f"configs/{name}.py").get_config()
    toy.shrink(config)
    config.toy = True
    config.workdir = str(tmp_path / name)
    config.data.tokenizer = str(shared / "weights/stories260K/tok512.model")
    config.model.vocab = 512 + config.model.vocab - 32_000  # As many rows are added.
    text = (shared / "data/tinyshakespeare/input.txt").read_text()
    documents = [json.dumps({"text": text[i : i + 1000]}) for i in range(0, 200_000, 1000)]
    (tmp_path / "texts.jsonl").write_text("\n".join(documents))
    evaluators = config.evaluation.evaluators.values()
    for source in [*config.data.mixture.values(), *(each.source for each in evaluators)]:
        source.path, source.loss = str(tmp_path / "texts.jsonl"), "all"
    config.update_from_flattened_dict(settings)
    assert train.main(load.parse(TrainConfig, config)) == 0
    found = written(tmp_path / name, "train/loss")
    assert len(found) == toy.STEPS
    return found


# What OpenChatKit does and the recipes do not, as their docstrings say.
AS_OPENCHATKIT = {
    "compute.dtype": "float16",
    "loss_scale.consecutive_hysteresis": False,
    "loss.reduction": "sum_of_rows",
    "optim.clip_stages": 2,
    "optim.no_decay": ("bias",),
}


def test_the_toy_of_a_fine_tuning_ends_with_a_checkpoint_that_transformers_reads(shared, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    name = "finetune_llama2_7b_32k_mqa"
    found = trained(name, shared, tmp_path, **AS_OPENCHATKIT)
    assert sum(found[-3:]) / 3 < found[0] - 0.3
    assert layout.steps(tmp_path / name / "checkpoints")[-1] == 10
    convert.main([str(tmp_path / name), str(tmp_path / "hf"), "--format=hf"])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.config.rope_parameters["factor"] == 8.0


def test_float16_goes_on_with_the_scale_it_had(shared, tmp_path):
    name = "finetune_llama2_7b_32k_booksum"
    settings = AS_OPENCHATKIT | {"loss_scale.initial": 2.0**23}  # Too large for these gradients.
    want = trained(name, shared, tmp_path, **settings)
    scales = written(tmp_path / name, "train/loss_scale")
    assert scales[5] < scales[0] == 2.0**23 and len(set(want)) > 3
    shutil.rmtree(tmp_path / name / "checkpoints/10")
    assert trained(name, shared, tmp_path, **settings) == want
    assert written(tmp_path / name, "train/loss_scale") == scales


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lora_llama2_7b", marks=pytest.mark.slow),
        pytest.param("qlora_llama2_7b", marks=pytest.mark.slow),
        "qlora_llama2_70b",
    ],
)
def test_adapters_learn_as_a_toy_on_a_base_that_was_trained(name, shared, tmp_path):
    base = shared / "weights/stories260K/hf"
    shape = weights.find(str(base)).model
    settings = {f"model.{key}": value for key, value in dataclasses.asdict(shape).items()}
    settings = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    found = trained(
        name,
        shared,
        tmp_path,
        init_from=str(base),
        **settings,
        **{"compute.param_dtype": "float32"},
    )
    assert sum(found[-3:]) / 3 < found[0] - 0.3
