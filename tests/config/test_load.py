import dataclasses
import json
import math

import pytest
from ml_collections import config_dict

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.model import ModelConfig
from llama_jax.config.optim import OptimConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.config.train import TrainConfig


def train_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/x"
    c.model = load.default(presets.LLAMA2_7B)
    c.data.tokenizer = "tokenizer.model"
    c.data.mixture.arxiv = load.default(SourceConfig(path="a"))
    return c


def test_parse_returns_what_default_was_made_of():
    parsed = load.parse(TrainConfig, train_config())
    assert parsed.model == presets.LLAMA2_7B
    assert load.parse(TrainConfig, load.default(parsed)) == parsed


def test_settings_survive_json():
    parsed = load.parse(TrainConfig, train_config())
    parsed = dataclasses.replace(parsed, optim=OptimConfig(clip=math.inf, betas=(0.5, 0.25)))
    assert load.from_dict(TrainConfig, json.loads(json.dumps(load.as_dict(parsed)))) == parsed


def test_members_of_a_mixture_are_set_by_name():
    c = train_config()
    c.data.mixture.arxiv.weight = 0.25
    assert load.parse(TrainConfig, c).data.mixture["arxiv"].weight == 0.25


def test_a_field_without_value_can_be_set():
    c = train_config()
    c.model.window = 4096
    assert load.parse(TrainConfig, c).model.window == 4096


def with_setting(path: str, value):
    c = train_config()
    *parents, last = path.split(".")
    section = c
    for name in parents:
        section = section[name]
    with section.unlocked(), section.ignore_type():
        section[last] = value
    return c


LONG = {"source": {"path": "x"}, "sequence_length": 8192, "rows": 1, "batch_size": 1, "buckets": 1}
BAD = [
    ("steps", 1.5, "config.steps is 1.5 (float); it must be a int."),
    ("steps", True, "config.steps is True (bool); it must be a int."),
    ("stepps", 1, "config.stepps does not exist. Did you mean config.steps?"),
    ("model.rope.scaling", "ynr", "config.model.rope.scaling is 'ynr'; it must be one of 'none',"),
    ("model.heads", 5, "config.model: heads is 5; it must be a multiple of kv_heads (32)."),
    ("model.head_dim", 7, "config.model: head_dim is 7; rotary embedding turns pairs"),
    ("model.rope.factor", 8.0, "config.model.rope: factor is 8.0 but scaling is 'none', so it has"),
    ("model.rope.beta_fast", 8.0, "config.model.rope: beta_fast is 8.0 but scaling is 'none'"),
    ("model.rope.scaling", "yarn", "config.model.rope: scaling is 'yarn', which needs original_"),
    ("optim.learning_rate", math.nan, "config.optim.learning_rate is nan"),
    ("optim.learning_rate", -1.0, "config.optim: learning_rate is -1.0; it must be positive."),
    ("optim.betas", (0.9, "x"), "config.optim.betas[1] is 'x'"),
    ("optim.warmup_start", 0.5, "config.optim: warmup_start is 0.5 but warmup_steps is 0"),
    ("data.mixture", {}, "config: data.mixture is empty"),
    ("data.mixture.arxiv", 3, "config.data.mixture.arxiv is 3; it is a section"),
    ("data.mixture.arxiv.weight", 0.0, "config.data.mixture.arxiv: weight is 0.0"),
    ("data.batch_size", 0, "config.data: batch_size is 0; it must be at least 1."),
    ("data.sequence_length", 8192, "config: data.sequence_length is 8192 but the model reads at"),
    ("accumulate", 3, "config: data.batch_size is 8; it must be a multiple of accumulate (3)."),
    ("accumulate_dtype", "bfloat16", "config: accumulate_dtype is 'bfloat16' but accumulate is 1"),
    ("optim.clip_stages", 5, "config: optim.clip_stages is 5; it must divide model.layers (32)."),
    (
        "loss_scale.initial",
        4.0,
        "config: loss_scale.initial is 4.0 but compute.dtype is 'bfloat16'",
    ),
    ("loss_scale.initial", 1e39, "config.loss_scale: smallest is 1.0 and initial 1e+39"),
    ("loss_scale.smallest", 0.0, "config.loss_scale: smallest is 0.0 and initial 32768.0"),
    ("loss_scale.smallest", 1e9, "config.loss_scale: smallest is 1000000000.0 and initial 32768.0"),
    ("checkpoint.keep_last", 1, "config.checkpoint: keep_last is 1; it must be at least 2"),
    ("evaluation.every", 5, "config.evaluation: every is 5 but no evaluators are named."),
    ("evaluation", {"every": 1, "evaluators": {"x": LONG}}, "config: evaluation.evaluators.x.seq"),
    ("mesh.fsdp", 0, "config.mesh: fsdp is 0; it must be a number of devices, or -1."),
    ("mesh.data", -1, "config.mesh: more than one axis is -1"),
    ("sharding.mlp", ("tensr",), "config.sharding: mlp names the mesh axis 'tensr'"),
    ("workdir", None, "config.workdir is required. Set it in the config file or with --config."),
]


@pytest.mark.parametrize(("path", "value", "sentence"), BAD, ids=[f"{p}={v}" for p, v, _ in BAD])
def test_bad_settings_are_named_with_their_path(path, value, sentence):
    with pytest.raises(ValueError) as error:
        load.parse(TrainConfig, with_setting(path, value))
    assert str(error.value).startswith(sentence), error.value


def test_infinity_is_a_number():
    c = train_config()
    c.optim.clip = math.inf
    assert load.parse(TrainConfig, c).optim.clip == math.inf


def test_a_wrong_type_is_refused_when_it_is_set():
    with pytest.raises(TypeError):
        train_config().steps = "many"


def test_an_unset_required_field_is_a_placeholder_that_a_flag_can_set():
    c = load.default(TrainConfig)
    assert isinstance(c.get_ref("workdir"), config_dict.FieldReference)
    assert c.workdir is None
    c.workdir = "set"


def test_differences_name_the_path_and_both_values():
    old = load.as_dict(load.parse(TrainConfig, train_config()))
    new = json.loads(json.dumps(old))
    assert load.differences(old, new) == []
    new["optim"]["learning_rate"] = 1.0
    new["data"]["mixture"]["books"] = {"path": "b"}
    assert load.differences(old, new) == [
        "config.data.mixture.books: None -> {'path': 'b'}",
        "config.optim.learning_rate: 0.0003 -> 1.0",
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"factor": 0.5}, "factor is 0.5"),
        ({"theta": 0.0}, "theta is 0.0"),
        (
            {"scaling": "linear", "factor": 2.0, "original_context": 4096},
            "original_context is 4096",
        ),
        ({"scaling": "dynamic", "factor": 2.0}, "which needs original_context"),
        (
            {"scaling": "yarn", "factor": 2.0, "original_context": 64, "mscale": 1.0},
            "mscale and mscale_all_dim only act together",
        ),
        (
            {"scaling": "llama3", "original_context": 64, "low_freq_factor": 9.0},
            "low_freq_factor is 9.0",
        ),
    ],
)
def test_rope_settings_that_cannot_act_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        RopeConfig(**settings)


def test_config_imports_no_jax():
    import subprocess
    import sys

    code = (
        "import sys, llama_jax.config.train, llama_jax.config.presets, llama_jax.config.prepare;"
        "print([name for name in sys.modules if name in ('jax', 'flax', 'ml_collections')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_model_and_kernels_need_only_jax_flax_and_numpy():
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('grain', 'ml_collections', 'sentencepiece', 'tokenizers', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "import llama_jax.model.llama, llama_jax.losses.cross_entropy\n"
        "import llama_jax.kernels.attention.api, llama_jax.model.vocabulary\n"
        "print('imported')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "imported", result.stderr


def test_presets_are_models():
    assert all(
        isinstance(value, ModelConfig) for name, value in vars(presets).items() if name.isupper()
    )
