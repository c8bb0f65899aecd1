"""config.json means here what it means to transformers, and survives the way there and back."""

import dataclasses
import json

import pytest

from llama_jax.config import presets
from llama_jax.config.model import ModelConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.converters import huggingface_config
from llama_jax.core.errors import DataError

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
MODEL = ModelConfig(
    layers=2, embed=64, mlp=96, heads=4, kv_heads=2, head_dim=16, vocab=128, context=512
)
ROPES = {
    "none": RopeConfig(theta=5e5),
    "linear": RopeConfig(scaling="linear", factor=8.0),
    "linear by 1": RopeConfig(scaling="linear"),
    "dynamic": RopeConfig(scaling="dynamic", factor=2.0, original_context=256),
    "dynamic, another reach": RopeConfig(scaling="dynamic", factor=1.0, original_context=100),
    "yarn": RopeConfig(scaling="yarn", factor=4.0, original_context=128),
    "yarn with everything": RopeConfig(
        scaling="yarn",
        factor=4.0,
        original_context=128,
        beta_fast=16.0,
        beta_slow=2.0,
        truncate=False,
        attention_factor=1.5,
        mscale=0.7,
        mscale_all_dim=0.9,
    ),
    "llama3": RopeConfig(
        theta=5e5,
        scaling="llama3",
        factor=8.0,
        original_context=64,
        low_freq_factor=1.5,
        high_freq_factor=5.0,
    ),
}


def read(**fields):
    return huggingface_config.to_ours({**SMALL, **fields})


def write(config, original=None):
    values = huggingface_config.to_theirs(config, original, dtype="float32")
    return json.loads(json.dumps(values))


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_every_model_survives_the_way_there_and_back(rope):
    config = dataclasses.replace(MODEL, rope=rope)
    assert huggingface_config.to_ours(write(config)) == config


@pytest.mark.parametrize("kept", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_each_of_the_two_dialects_alone_says_everything(rope, kept):
    config = dataclasses.replace(MODEL, rope=rope)
    values = write(config)
    if kept == "rope_scaling":
        if values["rope_scaling"] is None and rope.scaling == "linear":
            pytest.skip("4.31 has no word for linear scaling by 1, which is none")
        del values["rope_parameters"]
    else:
        del values["rope_scaling"], values["rope_theta"]
    assert huggingface_config.to_ours(values) == config


@pytest.mark.parametrize(
    "preset", ["LLAMA2_7B", "LLAMA2_70B", "MISTRAL_7B", "LLAMA2_7B_32K", "LLAMA2_13B_8K"]
)
def test_presets_survive(preset):
    config = getattr(presets, preset)
    assert huggingface_config.to_ours(write(config)) == config


def test_linear_is_written_as_transformers_4_31_wants_it():
    """Its validator: a dict of exactly type and factor, the latter a float above 1."""
    values = write(presets.LLAMA2_7B_32K)
    assert values["rope_scaling"] == {"type": "linear", "factor": 8.0}
    assert type(values["rope_scaling"]["factor"]) is float
    assert values["max_position_embeddings"] == 32768
    assert values["rope_parameters"] == {
        "rope_type": "linear",
        "factor": 8.0,
        "rope_theta": 10000.0,
    }


def test_ntk_is_written_as_the_larger_base_that_it_is():
    rope = RopeConfig(scaling="ntk", factor=8.0)
    values = write(dataclasses.replace(presets.LLAMA2_7B, rope=rope))
    assert values["rope_scaling"] is None
    assert values["rope_theta"] == pytest.approx(82684.6226, rel=1e-8)  # recipe for base 1e4, d 128


def test_dynamic_scaling_begins_at_their_max_position_embeddings():
    config = read(max_position_embeddings=256, rope_scaling={"type": "dynamic", "factor": 4.0})
    assert config.rope.original_context == 256
    assert config.context == 1024


def test_absent_fields_take_the_defaults_of_the_class():
    llama = read()
    assert (llama.norm_eps, llama.context, llama.kv_heads) == (1e-6, 2048, 4)
    assert (llama.rope, llama.window, llama.head_dim) == (RopeConfig(), None, 16)
    mistral = read(model_type="mistral", num_attention_heads=8)
    assert (mistral.kv_heads, mistral.window, mistral.context) == (8, 4096, 131072)
    assert read(model_type="mistral", num_attention_heads=8, sliding_window=None).window is None
    assert read(model_type="mistral", num_key_value_heads=None).kv_heads == 4


def test_fields_that_we_do_not_know_come_back_unchanged():
    original = {
        **SMALL,
        "pretraining_tp": 1,
        "use_cache": True,
        "pad_token_id": 0,
        "auto_map": {"AutoModelForCausalLM": "modeling_flash_llama.LlamaForCausalLM"},
        "transformers_version": "4.31.0",
    }
    values = write(huggingface_config.to_ours(original), original)
    assert {name: values[name] for name in original} == original


def test_a_stale_value_of_the_original_does_not_contradict_a_changed_model():
    original = {**SMALL, "original_max_position_embeddings": 64, "dtype": "float16"}
    yarn = RopeConfig(scaling="yarn", factor=4.0, original_context=128)
    config = dataclasses.replace(MODEL, rope=yarn)
    values = write(config, original)
    assert huggingface_config.to_ours(values) == config
    assert values["dtype"] == values["torch_dtype"] == "float32"


def test_an_explicit_head_size_is_written_and_an_implied_one_is_not_added():
    assert "head_dim" not in write(MODEL)
    assert write(dataclasses.replace(MODEL, head_dim=32))["head_dim"] == 32


REFUSED = {
    "model_type is 'gpt2'": {"model_type": "gpt2"},
    "architectures is ['LlamaForSequenceClassification']": {
        "architectures": ["LlamaForSequenceClassification"]
    },
    "hidden_act is 'gelu'": {"hidden_act": "gelu"},
    "mlp_bias is True": {"mlp_bias": True},
    "quantization_config is": {"quantization_config": {"bits": 4}},
    "partial_rotary_factor is 0.5": {"partial_rotary_factor": 0.5},
    "attention_bias is set": {"model_type": "mistral", "attention_bias": True},
    "layer_types is": {"layer_types": ["full_attention", "sliding_attention"]},
    "rope_type is 'longrope'": {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
    "rope_scaling: factor is missing": {"rope_scaling": {"type": "linear"}},
    "rope_scaling: factor is 'x'": {"rope_scaling": {"type": "linear", "factor": "x"}},
    "rope_scaling: original_max_position_embeddings is missing": {
        "rope_scaling": {"type": "yarn", "factor": 2.0}
    },
    "rope_scaling: low_freq_factor is missing": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 2.0,
            "original_max_position_embeddings": 64,
        }
    },
    "rope_scaling is [1]; it must be an object": {"rope_scaling": [1]},
    "they must say the same": {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0},
    },
    "rope_theta is said more than once": {
        "rope_theta": 1e4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "hidden_size is missing": {"hidden_size": None},
    "hidden_size is '64'": {"hidden_size": "64"},
    "num_hidden_layers is True": {"num_hidden_layers": True},
    "vocab_size is -1": {"vocab_size": -1},
    "rms_norm_eps is 'small'": {"rms_norm_eps": "small"},
    "tie_word_embeddings is 'yes'": {"tie_word_embeddings": "yes"},
    "head_dim is missing": {"hidden_size": 66},
    "kv_heads (3)": {"num_key_value_heads": 3},
    "factor is 0.5": {"rope_scaling": {"type": "linear", "factor": 0.5}},
    "rope_theta is inf": {"rope_theta": float("inf")},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_implemented_or_malformed_is_refused_by_name(message):
    with pytest.raises(DataError) as error:
        read(**REFUSED[message])
    assert message in str(error.value)
    assert str(error.value).startswith("config.json: ")


def test_a_window_with_biases_has_no_architecture_there():
    config = dataclasses.replace(MODEL, window=8, attention_bias=True)
    with pytest.raises(ValueError, match="no Hugging Face architecture"):
        write(config)


def test_a_config_that_is_absent_or_no_object_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"config.json is missing"):
        huggingface_config.read(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match="must hold a JSON object"):
        huggingface_config.read(tmp_path / "config.json")
