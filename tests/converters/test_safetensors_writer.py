"""Shards hold as many tensors as fit, in order, and say where each is."""

import json

import numpy as np
from safetensors import safe_open

from llama_jax.converters import safetensors_writer as writer


def test_shards_are_filled_in_order_and_a_large_tensor_stands_alone():
    sizes = {"a": 4, "b": 4, "c": 4, "d": 20, "e": 1, "f": 9}
    assert writer.plan(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert writer.plan(sizes, 100) == [list(sizes)]


def test_the_index_names_every_tensor_and_the_bytes_of_all(tmp_path):
    arrays = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abc")}
    writer.write(tmp_path, dict.fromkeys(arrays, 24), arrays.__getitem__, shard_bytes=48)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 72
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="np") as shard:
            assert shard.metadata() == {"format": "pt"}
            np.testing.assert_array_equal(shard.get_tensor(name), arrays[name])


def test_a_transposed_view_is_written_as_it_reads(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    writer.write(tmp_path, {"a": 24}, lambda _: array, shard_bytes=100)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("a"), array)


def test_only_one_shard_of_tensors_is_read_at_a_time(tmp_path):
    """When a shard's first tensor is asked for, every earlier shard is on disk already."""

    def read(name):
        assert len(list(tmp_path.glob("*.safetensors"))) == "abcd".index(name) // 2
        return np.zeros(1, np.float32)

    writer.write(tmp_path, dict.fromkeys("abcd", 4), read, shard_bytes=8)
