"""Exporting holds one parameter at a time, however many there are."""

import jax
import numpy as np
import pytest

from llama_jax import convert
from llama_jax.checkpoint import reader
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import huggingface, huggingface_config, run_directory, weights
from llama_jax.core import tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama

MODEL = ModelConfig(
    layers=3, embed=16, mlp=24, heads=2, kv_heads=1, head_dim=8, vocab=32, context=64
)


@pytest.fixture
def params():
    return llama.create(MODEL, ComputeConfig(), 0)


@pytest.fixture
def run(tmp_path, params):
    folder = tmp_path / "run"
    folder.mkdir()
    run_directory.write(folder, MODEL, params)
    return folder


def test_each_parameter_is_asked_for_once(params, tmp_path):
    leaves, asked = tree.named_leaves(params), []

    def leaf_of(name):
        asked.append(name)
        return leaves[name]

    read = huggingface.reader_of(leaf_of, MODEL, "float32")
    config = huggingface_config.to_theirs(MODEL, dtype="float32")
    huggingface.write(tmp_path, config, MODEL, read, shard_bytes=4096)
    assert sorted(asked) == sorted(leaves)


def test_an_export_never_reads_the_whole_model(run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("all parameters were read at once")

    monkeypatch.setattr(weights.Weights, "read", refuse)
    convert.main([str(run), str(tmp_path / "exported"), "--format=hf"])
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_one_parameter_is_what_it_is_among_all(run, params):
    for name, leaf in tree.named_leaves(params).items():
        np.testing.assert_array_equal(weights.find(run).leaf(name), leaf)


def test_one_damaged_parameter_is_noticed(run):
    arrays = max((run / "checkpoints/0/state/d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(arrays.read_bytes())
    for place in range(len(content) // 3, len(content), 97):
        content[place] ^= 255
    arrays.write_bytes(bytes(content))
    found = weights.find(run)
    with pytest.raises(DataError):
        for name in tree.named_leaves(llama.abstract(MODEL, ComputeConfig())[1]):
            found.leaf(name)


def test_a_parameter_that_is_not_there_is_named(run):
    shape = jax.ShapeDtypeStruct((3,), "float32")
    with pytest.raises(ValueError, match="params/nothing is missing"):
        reader.restore_param(run / "checkpoints", "nothing", shape)
