"""The door: what is detected, what is refused, and that DST appears whole or not at all."""

import argparse
import inspect
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from llama_jax import convert
from llama_jax.checkpoint import reader
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config import load
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.config.train import CheckpointConfig
from llama_jax.converters import huggingface_config, names
from llama_jax.core import files, tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama
from llama_jax.text.tokenizer import load_tokenizer
from llama_jax.text.training import train_tokenizer

MODEL = ModelConfig(
    layers=2, embed=16, mlp=24, heads=2, kv_heads=1, head_dim=8, vocab=700, context=64
)
ORIGINAL = {"pad_token_id": 0, "auto_map": {"AutoModel": "x.Y"}, "use_cache": True}
PROSE = inspect.getsource(argparse)  # Real text, on every machine.
SPOKEN = ["Once upon", " lead", "  two  spaces ", "", " ", "a\n\n  b", "héllo ✓", "12 345", "<s>x"]


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def weights(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=tensor.their_shape).astype(dtype)
        for tensor in names.tensors(MODEL)
        for name in tensor.names()
    }


def hf_folder(folder, arrays=None):
    folder.mkdir()
    config = huggingface_config.to_theirs(MODEL, ORIGINAL, dtype="float32")
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "generation_config.json", {"temperature": 0.6})
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "LICENSE.txt").write_text("free")
    save_file(arrays or weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def run_directory_of(folder, tokenizer=None):
    """A run that was trained here: two steps, with more than parameters in its checkpoints."""
    folder.mkdir()
    files.write_json(folder / "config.json", {"model": load.as_dict(MODEL)})
    params = [random_params(seed) for seed in (0, 1)]
    with CheckpointManager(folder / "checkpoints", CheckpointConfig()) as manager:
        for step, state in zip((10, 20), params, strict=True):
            manager.save(step, {"params": state, "optimizer": {"mu": state}}, {}, wait=True)
    if tokenizer:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "tokenizer.model").write_bytes(tokenizer)
    return folder, params


def random_params(seed):
    rng = np.random.default_rng(seed)
    _, abstract = llama.abstract(MODEL, ComputeConfig())
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), abstract)


def stored(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def tokenizer():
    config = TokenizerTrainingConfig(vocab=700)  # Enough merges that their order shows.
    return train_tokenizer([PROSE], config)


def test_there_and_back_keeps_weights_configuration_and_the_files_beside_them(tmp_path):
    source = hf_folder(tmp_path / "hf")
    run(source, tmp_path / "ours", "--format=orbax")
    run(tmp_path / "ours", tmp_path / "back", "--format=hf")
    before, after = stored(source), stored(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    for name in leftovers(source):
        if name != "model.safetensors":
            assert (tmp_path / "back" / name).read_text() == (source / name).read_text()
    assert leftovers(tmp_path / "back") == leftovers(source)


def test_a_converted_folder_is_a_run_directory_at_step_0(tmp_path):
    run(hf_folder(tmp_path / "hf"), tmp_path / "ours", "--format=orbax")
    settings = files.read_json(tmp_path / "ours" / "config.json")
    assert load.from_dict(ModelConfig, settings["model"]) == MODEL
    assert settings["versions"]["jax"]
    _, abstract = llama.abstract(MODEL, ComputeConfig())
    params, meta = reader.restore_params(tmp_path / "ours" / "checkpoints", abstract)
    assert meta["step"] == 0
    q = np.asarray(params["layers"]["attention"]["q"]["kernel"])
    theirs = weights()["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(q[1].reshape(16, 16), theirs.T)
    assert leftovers(tmp_path / "ours" / "tokenizer") == ["special_tokens_map.json"]


def test_the_step_that_is_named_is_exported_and_else_the_newest(tmp_path):
    source, (first, second) = run_directory_of(tmp_path / "run")
    run(source, tmp_path / "newest", "--format=hf")
    run(source, tmp_path / "named", "--format=hf", "--step=10")
    for folder, params in (("named", first), ("newest", second)):
        got = stored(tmp_path / folder)["model.embed_tokens.weight"]
        np.testing.assert_array_equal(got, np.asarray(params["embed"]["embedding"]))


def test_the_dtype_that_is_named_is_written_both_ways(tmp_path):
    source = hf_folder(tmp_path / "hf")
    run(source, tmp_path / "ours", "--format=orbax", "--dtype=bfloat16")
    _, abstract = llama.abstract(MODEL, ComputeConfig(param_dtype="bfloat16"))
    params, _ = reader.restore_params(tmp_path / "ours" / "checkpoints", abstract)
    assert {str(leaf.dtype) for leaf in tree.named_leaves(params).values()} == {"bfloat16"}
    run(tmp_path / "ours", tmp_path / "half", "--format=hf", "--dtype=float16")
    assert {str(array.dtype) for array in stored(tmp_path / "half").values()} == {"float16"}
    assert files.read_json(tmp_path / "half" / "config.json")["torch_dtype"] == "float16"


def test_a_hugging_face_folder_is_sharded_again(tmp_path):
    source = hf_folder(tmp_path / "hf")
    run(source, tmp_path / "shards", "--format=hf", "--shard_gigabytes=0.00001")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    run(tmp_path / "shards", tmp_path / "one", "--format=hf")
    assert leftovers(tmp_path / "one") == leftovers(source)
    again = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert again == (source / "model.safetensors").read_bytes()


def test_a_tied_head_and_stored_frequencies_are_not_written(tmp_path):
    arrays = weights() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    source = hf_folder(tmp_path / "hf", arrays)
    config = files.read_json(source / "config.json") | {"tie_word_embeddings": True}
    files.write_json(source / "config.json", config)
    run(source, tmp_path / "ours", "--format=orbax")
    run(tmp_path / "ours", tmp_path / "back", "--format=hf")
    assert stored(tmp_path / "back").keys() == weights().keys() - {"lm_head.weight"}


def test_a_trained_tokenizer_is_exported_with_its_ids(tmp_path, tokenizer):
    source, _ = run_directory_of(tmp_path / "run", tokenizer)
    run(source, tmp_path / "hf", "--format=hf")
    config = files.read_json(tmp_path / "hf" / "config.json")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, None)
    assert files.read_json(tmp_path / "hf" / "generation_config.json")["eos_token_id"] == 2
    assert (tmp_path / "hf" / "tokenizer.model").read_bytes() == tokenizer


def test_the_exported_tokenizer_json_encodes_as_the_sentencepiece_model(tmp_path, tokenizer):
    source, _ = run_directory_of(tmp_path / "run", tokenizer)
    run(source, tmp_path / "hf", "--format=hf")
    fast = load_tokenizer(tmp_path / "hf" / "tokenizer.json")
    slow = load_tokenizer(tmp_path / "hf" / "tokenizer.model")
    for text in [*SPOKEN, PROSE]:
        assert fast.encode(text) == slow.encode(text)
        assert fast.decode(fast.encode(text)) == slow.decode(slow.encode(text))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_loads_the_exported_tokenizer_and_encodes_equally(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    source, _ = run_directory_of(tmp_path / "run", tokenizer)
    run(source, tmp_path / "hf", "--format=hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = load_tokenizer(tmp_path / "hf" / "tokenizer.model")
    for text in [*SPOKEN[:-1], PROSE]:  # "<s>" in a text is a token to transformers.
        ids = theirs.encode(text)
        assert ids == ours.encode(text, bos=True)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)


def no_config(folder):
    (folder / "config.json").unlink()


def half_a_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def another_architecture(folder):
    files.write_json(folder / "config.json", {"model_type": "gpt2"})


def too_large_for_bfloat16(folder):
    save_file(
        weights() | {"model.norm.weight": np.full(16, 3.4e38, np.float32)},
        folder / "model.safetensors",
    )


@pytest.mark.parametrize(
    "damage, kind, message",
    [
        (no_config, DataError, "is neither a Hugging Face folder"),
        (half_a_file, DataError, "model.safetensors is not a whole safetensors file"),
        (another_architecture, DataError, "model_type is 'gpt2'"),
        (too_large_for_bfloat16, ValueError, "model.norm.weight holds values beyond"),
    ],
)
def test_a_source_that_cannot_be_converted_leaves_nothing_behind(tmp_path, damage, kind, message):
    source = hf_folder(tmp_path / "hf")
    damage(source)
    with pytest.raises(kind, match=message):
        run(source, tmp_path / "dst", "--format=orbax", "--dtype=bfloat16")
    assert leftovers(tmp_path) == ["hf"]


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path):
    source = hf_folder(tmp_path / "hf")
    run(source, tmp_path / "ours", "--format=orbax")
    arrays = weights() | {"lm_head.weight": np.full((700, 16), 1e30, np.float32)}
    save_file(arrays, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight holds values beyond .* float16"):
        run(source, tmp_path / "dst", "--format=hf", "--dtype=float16", "--shard_gigabytes=1e-5")
    assert leftovers(tmp_path) == ["hf", "ours"]


def test_a_damaged_checkpoint_leaves_nothing_behind(tmp_path):
    run(hf_folder(tmp_path / "hf"), tmp_path / "ours", "--format=orbax")
    state = tmp_path / "ours" / "checkpoints" / "0" / "state"
    largest = max(state.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(DataError, match="checkpoints/0"):
        run(tmp_path / "ours", tmp_path / "dst", "--format=hf")
    assert leftovers(tmp_path) == ["hf", "ours"]


def test_misuse_of_the_door_is_explained(tmp_path):
    source = hf_folder(tmp_path / "hf")
    run(source, tmp_path / "ours", "--format=orbax")
    cases = {
        "exists already": (source, tmp_path / "ours", "--format=orbax"),
        "must be a local folder": (tmp_path / "none", tmp_path / "x", "--format=hf"),
        "has no steps": (source, tmp_path / "x", "--format=orbax", "--step=3"),
        "holds no checkpoint of step 3": (
            tmp_path / "ours",
            tmp_path / "x",
            "--format=hf",
            "--step=3",
        ),
        "a run directory already": (tmp_path / "ours", tmp_path / "x", "--format=orbax"),
        "float32 or bfloat16": (source, tmp_path / "x", "--format=orbax", "--dtype=float16"),
        "must be positive": (source, tmp_path / "x", "--format=hf", "--shard_gigabytes=0"),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            run(*arguments)
    assert leftovers(tmp_path) == ["hf", "ours"]


def test_verify_without_torch_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.verify.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="torch and transformers is not installed"):
        run(hf_folder(tmp_path / "hf"), tmp_path / "x", "--format=orbax", "--verify")
    assert leftovers(tmp_path) == ["hf"]


def test_the_command_exits_65_with_one_sentence(tmp_path):
    source = hf_folder(tmp_path / "hf")
    another_architecture(source)
    done = subprocess.run(
        [sys.executable, "-m", "llama_jax.convert", source, tmp_path / "x", "--format=hf"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 65
    assert done.stderr.startswith("error: ")
    assert "model_type is 'gpt2'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.loads((source / "config.json").read_text()) == {"model_type": "gpt2"}
