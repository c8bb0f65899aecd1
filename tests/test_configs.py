"""Every shipped recipe loads, parses, describes a model, and says how it is run."""

import dataclasses
import importlib.util
import pathlib
import re
from fractions import Fraction

import pytest

from llama_jax.config import load
from llama_jax.config.distill import DistillConfig
from llama_jax.config.evaluate import EvaluateConfig
from llama_jax.config.prepare import PrepareConfig
from llama_jax.config.train import TrainConfig
from llama_jax.data.mixture import Mixture
from llama_jax.model import llama
from llama_jax.training.length import with_steps

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = sorted(ROOT.glob("configs/*.py"))
SCHEMAS = {
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "distill": DistillConfig,
}


def load_recipe(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    module = load_recipe(path)
    command = re.search(
        rf"python -m llama_jax\.(\w+) --config=configs/{path.stem}\.py", module.__doc__
    )
    assert command, "Say in the docstring how to run it."
    schema, config = SCHEMAS[command[1]], module.get_config()
    for required in ("workdir", "init_from"):
        if required in config and not config[required]:
            config[required] = "unused"
    parsed = load.parse(schema, config)
    assert load.parse(schema, load.default(parsed)) == parsed
    if schema is TrainConfig:
        llama.abstract(parsed.model, parsed.compute)


@pytest.mark.parametrize("length", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("variant", ["linear", "yarn"])
def test_an_extension_stretches_by_its_factor(length, variant):
    module = load_recipe(ROOT / f"configs/extend_llama2_7b_{length}k.py")
    config = load.parse(TrainConfig, module.get_config(variant))
    assert config.model.context == config.data.sequence_length == length * 1024
    assert (config.model.rope.scaling, config.model.rope.factor) == (variant, length / 4)
    optim = config.optim
    assert (optim.learning_rate, optim.warmup_steps, optim.weight_decay) == (2e-5, 20, 0.0)
    assert config.data.batch_size == (64 if length == 8 else 128)


@pytest.mark.parametrize("name", ["mqa", "booksum"])
def test_the_fine_tunings_have_the_figures_of_their_scripts(name):
    path = ROOT / f"configs/finetune_llama2_7b_32k_{name}.py"
    c = load.parse(TrainConfig, load_recipe(path).get_config())
    assert (c.steps, c.checkpoint.every, c.seed) == (10, 10, 42)
    assert c.data.batch_size * c.data.sequence_length == 131_072
    assert (c.data.batch_size, c.data.sequence_length, c.accumulate) == (4, 32_768, 1)
    assert (c.optim.learning_rate, c.optim.warmup_steps, c.optim.schedule) == (2e-5, 0, "linear")
    assert (c.optim.betas, c.optim.eps, c.optim.weight_decay) == ((0.9, 0.999), 1e-6, 0.01)
    assert c.optim.final_fraction == 0.0 and c.optim.clip == 1.0
    (source,) = c.data.mixture.values()
    assert source.weight == 1.0 and source.loss == "all"
    assert (c.data.text.before, c.data.text.add_bos, c.data.text.add_eos) == ("\n", True, False)
    assert (c.model.rope.scaling, c.model.rope.factor, c.model.context) == ("linear", 8.0, 32_768)


@pytest.mark.parametrize(
    ("phase", "names"),
    [
        (1, {"books", "arxiv", "redpajama", "ul2"}),
        (2, {"natural_instructions", "p3", "pile", "books", "arxiv"}),
    ],
)
def test_the_phases_mix_what_was_published(phase, names):
    c = load.parse(
        TrainConfig, load_recipe(ROOT / f"configs/llama2_7b_32k_phase{phase}.py").get_config()
    )
    shares = Mixture({name: source.weight for name, source in c.data.mixture.items()}).shares
    assert shares == {name: Fraction(1, len(names)) for name in names}


def test_the_orca_recipe_makes_the_steps_that_its_card_counts():
    path = ROOT / "configs/llama2_13b_orca_8k.py"
    config = load.parse(TrainConfig, load_recipe(path).get_config())
    assert with_steps(config, rows=188_842 + 47_760 + 188_262).steps == 3319
    assert config.model.vocab == 32_016 and config.model.rope.factor == 2.0
    held = {name: each.source.max_val_set for name, each in config.evaluation.evaluators.items()}
    assert held == {"orca_chat": 5000, "fanfics": 1000, "red_pajama": 1000}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_never_reads_another_recipe_and_is_short(path):
    text = path.read_text()
    assert "configs." not in re.sub(r'""".*?"""', "", text, flags=re.S)
    assert len(text.splitlines()) <= 80


def test_every_setting_is_read_somewhere():
    code = "\n".join(
        path.read_text()
        for path in (ROOT / "llama_jax").rglob("*.py")
        if path.parent.name != "config"
    )
    inside = "\n".join(path.read_text() for path in (ROOT / "llama_jax/config").glob("*.py"))
    unread = []
    for path in sorted((ROOT / "llama_jax/config").glob("*.py")):
        if path.stem in ("load", "presets", "__init__"):
            continue
        module = importlib.import_module(f"llama_jax.config.{path.stem}")
        for schema in vars(module).values():
            if not dataclasses.is_dataclass(schema) or schema.__module__ != module.__name__:
                continue
            for field in dataclasses.fields(schema):
                # A mesh axis is read by its name, through the table of rules.
                read = rf"\.{field.name}\b|[\"']{field.name}[\"']"
                if not re.search(read, code) and not re.search(rf"self\.{field.name}\b", inside):
                    unread.append(f"{schema.__name__}.{field.name}")
    assert not unread, f"nobody reads {unread}"
