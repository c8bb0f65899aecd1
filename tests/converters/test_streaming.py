"""Exporting holds one parameter at a time, however many there are."""

import gc
import weakref

import jax
import numpy as np
import pytest

from llama_jax import convert
from llama_jax.checkpoint import reader
from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import huggingface, huggingface_config, run_directory, weights
from llama_jax.core import tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh

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
    run_directory.write(folder, MODEL, tree.named_leaves(params).__getitem__)
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
    for spot in range(len(content) // 3, len(content), 97):
        content[spot] ^= 255
    arrays.write_bytes(bytes(content))
    found = weights.find(run)
    with pytest.raises(DataError):
        for name in tree.named_leaves(llama.abstract(MODEL, ComputeConfig())[1]):
            found.leaf(name)


def test_a_parameter_that_is_not_there_is_named(run):
    shape = jax.ShapeDtypeStruct((3,), "float32")
    with pytest.raises(ValueError, match="params/nothing is missing"):
        reader.restore_param(run / "checkpoints", "nothing", shape)


def test_an_import_never_reads_the_whole_model(run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("all parameters were read at once")

    convert.main([str(run), str(tmp_path / "hf"), "--format=hf"])
    monkeypatch.setattr(huggingface.Folder, "params", refuse)
    convert.main([str(tmp_path / "hf"), str(tmp_path / "ours"), "--format=orbax"])
    for name in tree.named_leaves(llama.abstract(MODEL, ComputeConfig())[1]):
        there, back = weights.find(run).leaf(name), weights.find(tmp_path / "ours").leaf(name)
        np.testing.assert_array_equal(there, back)


def test_a_written_parameter_is_forgotten_before_the_next_is_made(params, tmp_path):
    leaves, alive = tree.named_leaves(params), []

    gc.freeze()  # Only what is made from here on needs to be looked at.

    def leaf_of(name):
        gc.collect()
        assert all(there() is None for there in alive), f"{name} is not alone"
        leaf = np.array(leaves[name])
        alive.append(weakref.ref(leaf))
        return leaf

    run_directory.write(tmp_path, MODEL, leaf_of)
    gc.unfreeze()
    assert len(alive) == 2 * len(leaves)


def test_what_cannot_be_made_leaves_no_checkpoint(params, tmp_path):
    leaves = tree.named_leaves(params)

    def leaf_of(name):
        if name == "norm/scale":
            raise DataError("the tensor is damaged")
        return leaves[name]

    with pytest.raises(DataError, match="the tensor is damaged"):
        run_directory.write(tmp_path, MODEL, leaf_of)
    assert not list((tmp_path / "checkpoints").iterdir())


MESHES = [MeshConfig(), MeshConfig(fsdp=4, tensor=2), MeshConfig(fsdp=1, data=8)]


@pytest.mark.parametrize("mesh", MESHES, ids=["fsdp", "fsdp-tensor", "data"])
def test_weights_are_placed_as_they_are_read(run, params, tmp_path, mesh):
    convert.main([str(run), str(tmp_path / "hf"), "--format=hf"])
    layout = Layout(make_mesh(mesh), ShardingRules())
    shardings = place.shardings(layout, params)
    read = weights.find(tmp_path / "hf").read("float32", shardings)
    for name, leaf in tree.named_leaves(read).items():
        assert leaf.sharding == tree.named_leaves(shardings)[name]
        np.testing.assert_array_equal(leaf, tree.named_leaves(params)[name])
