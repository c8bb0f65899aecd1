"""Our logits are transformers' logits, and its weights come back bit for bit.

Every model is small, random, made by transformers and saved by it.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from llama_jax import convert
from llama_jax.config.model import ComputeConfig
from llama_jax.converters import weights
from llama_jax.converters.huggingface import Folder
from llama_jax.model import llama

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.torch,
    # torch.jit and numpy's aliases, inside the libraries that are compared with.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # Large enough that a wrong rotation moves logits by far more.
    "rms_norm_eps": 1e-5,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
MODELS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True, "num_key_value_heads": 2},
    "head_dim": {"head_dim": 32, "num_key_value_heads": 2},
    "theta": {"rope_theta": 5e5},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN},
    "yarn_untruncated": {"rope_scaling": {**YARN, "truncate": False, "attention_factor": 1.3}},
    "yarn_mscale": {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    "mistral_window": {"model_type": "mistral", "sliding_window": 8, "num_key_value_heads": 2},
    "mistral": {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": 2},
}
LONG = 100  # Beyond max_position_embeddings, where "dynamic" begins to stretch.
LENGTHS = {"gqa": (1, 17, 64, LONG), "dynamic": (17, 64, LONG)}


def make(folder, dtype=torch.float32, **fields):
    """Saves a random model; biases and norms are random too, as their defaults hide mistakes."""
    fields = {**SHAPE, **fields}
    kind = fields.pop("model_type", "llama")
    mistral = kind == "mistral"
    config = (transformers.MistralConfig if mistral else transformers.LlamaConfig)(**fields)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.2)
    model.to(dtype).save_pretrained(folder)
    return folder


def their_logits(folder, length):
    """A fresh model for each length: "dynamic" of transformers remembers the longest row."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens(length))).logits.numpy()


def our_logits(folder, length, attention="reference"):
    source = Folder(folder)
    compute = ComputeConfig(dtype="float32", attention=attention, attention_chunk=16, remat="none")
    graph, _ = llama.abstract(source.model, compute)
    model = llama.merge(graph, source.params("float32"))
    return np.asarray(jax.jit(lambda t: model(t))(jnp.asarray(tokens(length), jnp.int32)))


def tokens(length):
    return np.random.default_rng(length).integers(0, SHAPE["vocab_size"], (2, length))


def stored(folder):
    """Returns every tensor of a folder as (dtype, shape, bytes)."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                array = file.get_tensor(name)
                found[name] = (str(array.dtype), array.shape, array.tobytes())
    return found


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(tmp_path, name):
    folder = make(tmp_path / "hf", **MODELS[name])
    for length in LENGTHS.get(name, (LONG,)):
        theirs = their_logits(folder, length)
        assert np.abs(theirs).max() > 1  # The model is not degenerate.
        np.testing.assert_allclose(our_logits(folder, length), theirs, rtol=0, atol=1e-4)


def test_the_chunked_attention_gives_them_too(tmp_path):
    folder = make(tmp_path / "hf", **MODELS["mistral_window"])
    got = our_logits(folder, 64, "chunked")
    np.testing.assert_allclose(got, their_logits(folder, 64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn", "llama3"])
def test_the_scaling_matters_at_these_lengths(tmp_path, name):
    """Without it the parity above would hold for any scaling that does nothing."""
    folder = make(tmp_path / "hf", **MODELS[name])
    config = json.loads((folder / "config.json").read_text())
    scaled = their_logits(folder, LONG)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    assert np.abs(our_logits(folder, LONG) - scaled).max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_folder_is_the_same_model_to_transformers(tmp_path, name):
    folder = make(tmp_path / "hf", **MODELS[name])
    original = json.loads((folder / "config.json").read_text())
    run(folder, tmp_path / "ours", "--format=orbax")
    run(tmp_path / "ours", tmp_path / "back", "--format=hf", "--shard_gigabytes=0.0001")
    assert stored(tmp_path / "back") == stored(folder)
    assert (tmp_path / "back" / "model.safetensors.index.json").exists()
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: back[key] for key in original if key != "rope_parameters"} == {
        key: value for key, value in original.items() if key != "rope_parameters"
    }
    # As for a model that was trained here: no original config.json to lean on.
    (tmp_path / "ours" / "huggingface" / "config.json").unlink()
    run(tmp_path / "ours", tmp_path / "bare", "--format=hf")
    wanted = their_logits(folder, LONG)
    np.testing.assert_array_equal(their_logits(tmp_path / "back", LONG), wanted)
    np.testing.assert_array_equal(their_logits(tmp_path / "bare", LONG), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_tensor_comes_back_bit_for_bit_in_every_dtype(tmp_path, dtype):
    folder = make(tmp_path / "hf", dtype=getattr(torch, dtype), **MODELS["attention_bias"])
    run(folder, tmp_path / "ours", "--format=orbax")
    kept = weights.find(tmp_path / "ours").dtype
    assert kept == ("bfloat16" if dtype == "bfloat16" else "float32")
    run(tmp_path / "ours", tmp_path / "back", "--format=hf", f"--dtype={dtype}")
    assert stored(tmp_path / "back") == stored(folder)
    assert {value[0] for value in stored(folder).values()} == {dtype}


def test_shards_made_by_transformers_are_read(tmp_path):
    folder = make(tmp_path / "hf", **MODELS["gqa"])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    run(tmp_path / "shards", tmp_path / "one", "--format=hf")
    assert stored(tmp_path / "one") == stored(folder)


def test_ntk_is_exported_as_an_equal_model(tmp_path):
    config = Folder(make(tmp_path / "hf")).model
    run(tmp_path / "hf", tmp_path / "ours", "--format=orbax")
    (tmp_path / "ours" / "huggingface" / "config.json").unlink()
    settings = json.loads((tmp_path / "ours" / "config.json").read_text())
    settings["model"]["rope"] |= {"scaling": "ntk", "factor": 4.0}
    (tmp_path / "ours" / "config.json").write_text(json.dumps(settings))
    run(tmp_path / "ours", tmp_path / "back", "--format=hf")
    ntk = weights.find(tmp_path / "ours").model
    assert (config.rope.scaling, ntk.rope.scaling) == ("none", "ntk")
    graph, _ = llama.abstract(ntk, ComputeConfig(dtype="float32", attention="reference"))
    model = llama.merge(graph, weights.find(tmp_path / "ours").read())
    got = np.asarray(model(jnp.asarray(tokens(64), jnp.int32)))
    np.testing.assert_allclose(got, their_logits(tmp_path / "back", 64), rtol=0, atol=1e-4)


def test_verify_reports_small_differences_at_both_lengths(tmp_path, capsys):
    folder = make(tmp_path / "hf", **MODELS["dynamic"])
    run(folder, tmp_path / "ours", "--format=orbax", "--verify")
    lines = [line for line in capsys.readouterr().out.splitlines() if "Δlogit" in line]
    assert [line.split()[0] for line in lines] == ["64", "80"]  # 80 is beyond the original 64.
    for line in lines:
        words = line.replace(",", "").split()
        assert float(words[4]) < 1e-4
        assert float(words[-1]) < 1e-6


def test_verify_reports_a_large_difference(tmp_path, capsys):
    """Rounding to bfloat16 moves logits by about one part in 256."""
    folder = make(tmp_path / "hf", **MODELS["gqa"])
    run(folder, tmp_path / "ours", "--format=orbax", "--dtype=bfloat16", "--verify")
    line = capsys.readouterr().out.splitlines()[-1]
    assert float(line.replace(",", "").split()[4]) > 1e-3


def test_really_trained_weights_come_back_byte_for_byte(shared, tmp_path):
    folder = shared / "weights" / "stories260K" / "hf"
    run(folder, tmp_path / "ours", "--format=orbax")
    run(tmp_path / "ours", tmp_path / "back", "--format=hf")
    assert stored(tmp_path / "back") == stored(folder)
    np.testing.assert_allclose(
        our_logits(folder, 17), their_logits(tmp_path / "back", 17), rtol=0, atol=1e-4
    )
