"""Untrusted weights: every broken folder is refused with the file and tensor named."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from llama_jax.config.model import ModelConfig
from llama_jax.converters import names
from llama_jax.converters.safetensors_reader import INDEX, SINGLE, Reader
from llama_jax.core.errors import DataError

CONFIG = ModelConfig(layers=2, embed=8, mlp=12, heads=2, kv_heads=1, head_dim=4, vocab=16)
Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=tensor.their_shape).astype(dtype)
        for tensor in names.tensors(CONFIG)
        for name in tensor.names()
    }


def write_shards(folder, first, second, weight_map=None, metadata=None):
    save_file(first, folder / "a.safetensors")
    save_file(second, folder / "b.safetensors")
    if weight_map is None:
        weight_map = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return weight_map


def halves(dtype=np.float32):
    whole = tensors(dtype)
    cut = list(whole)[: len(whole) // 2]
    return {n: whole[n] for n in cut}, {n: whole[n] for n in whole if n not in cut}


def check(folder):
    Reader(folder).check(CONFIG)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_tensor_is_read_bit_for_bit(tmp_path, dtype):
    save_file(tensors(dtype), tmp_path / SINGLE)
    reader = Reader(tmp_path)
    reader.check(CONFIG)
    assert reader.read(Q).tobytes() == tensors(dtype)[Q].tobytes()
    assert reader.dtypes() == {np.dtype(dtype).name}


def test_shards_are_found_through_the_index(tmp_path):
    first, second = halves()
    size = sum(array.nbytes for array in tensors().values())
    write_shards(tmp_path, first, second, metadata={"total_size": size})
    reader = Reader(tmp_path)
    reader.check(CONFIG)
    assert all((reader.read(n) == a).all() for n, a in {**first, **second}.items())


def test_stored_frequencies_are_ignored(tmp_path):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float16)}
    save_file(tensors() | extra, tmp_path / SINGLE)
    check(tmp_path)
    assert Reader(tmp_path).dtypes() == {"float32"}


def lacks(folder):
    save_file({n: a for n, a in tensors().items() if n != Q}, folder / SINGLE)


def has_too_much(folder):
    save_file(tensors() | {"model.layers.2.mlp.up_proj.weight": np.zeros(3)}, folder / SINGLE)


def misshapen(folder):
    save_file(tensors() | {Q: np.zeros((8, 9), np.float32)}, folder / SINGLE)


def transposed(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors() | {name: np.zeros((8, 12), np.float32)}, folder / SINGLE)


def integers(folder):
    save_file(tensors() | {NORM: np.zeros(8, np.int32)}, folder / SINGLE)


def doubles(folder):
    save_file(tensors() | {NORM: np.zeros(8)}, folder / SINGLE)


def truncated(folder):
    save_file(tensors(), folder / SINGLE)
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-5])


def truncated_shard(folder):
    write_shards(folder, *halves())
    path = folder / "b.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    (folder / SINGLE).write_bytes(b"")


def huge_header(folder):
    (folder / SINGLE).write_bytes(struct.pack("<Q", 2**63) + b"{}")


def not_a_header(folder):
    (folder / SINGLE).write_bytes(struct.pack("<Q", 4) + b"abcd")


def offsets_beyond_the_file(folder):
    header = json.dumps({Q: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header.encode())


def nothing(folder):
    pass


def only_a_pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(b"x")


def missing_shard(folder):
    write_shards(folder, *halves())
    (folder / "b.safetensors").unlink()


def listed_but_absent(folder):
    first, second = halves()
    weight_map = write_shards(folder, first, second)
    second = {n: a for n, a in second.items() if n != NORM}
    write_shards(folder, first, second, weight_map)


def in_two_shards(folder):
    first, second = halves()
    weight_map = write_shards(folder, first, second)
    name = next(iter(second))
    write_shards(folder, first | {name: second[name]}, second, weight_map | {name: "a.safetensors"})


def in_another_shard(folder):
    first, second = halves()
    weight_map = write_shards(folder, first, second)
    write_shards(folder, first, second, weight_map | {NORM: "a.safetensors"})


def unlisted(folder):
    first, second = halves()
    weight_map = write_shards(folder, first, second)
    del weight_map[NORM]
    write_shards(folder, first, second, weight_map)


def wrong_total(folder):
    write_shards(folder, *halves(), metadata={"total_size": 7})


def index_of(value):
    def write(folder):
        (folder / INDEX).write_text(value if isinstance(value, str) else json.dumps(value))

    return write


def pointing(shard):
    return index_of({"weight_map": {Q: shard}})


BROKEN = {
    "lacks a tensor": (lacks, f"lacks the tensor {Q}"),
    "surplus tensor": (has_too_much, "holds model.layers.2.mlp.up_proj.weight, which a model of"),
    "misshapen": (misshapen, f"{SINGLE}: {Q} has shape [8, 9]; by config.json it must be [8, 8]"),
    "transposed": (
        transposed,
        "up_proj.weight has shape [8, 12]; by config.json it must be [12, 8",
    ),
    "integers": (integers, f"{NORM} is stored as I32; it must be one of F32, BF16, F16"),
    "doubles": (doubles, f"{NORM} is stored as F64"),
    "truncated": (truncated, f"{SINGLE} is not a whole safetensors file"),
    "truncated shard": (truncated_shard, "b.safetensors is not a whole safetensors file"),
    "empty": (empty, f"{SINGLE} is not a whole safetensors file"),
    "huge header": (huge_header, f"{SINGLE} is not a whole safetensors file"),
    "no header": (not_a_header, f"{SINGLE} is not a whole safetensors file"),
    "beyond the file": (offsets_beyond_the_file, f"{SINGLE} is not a whole safetensors file"),
    "nothing": (nothing, f"holds neither {SINGLE} nor {INDEX}"),
    "pickle": (only_a_pickle, f"holds neither {SINGLE} nor {INDEX}"),
    "missing shard": (missing_shard, "names the shard b.safetensors, which is not in the folder"),
    "listed but absent": (listed_but_absent, f"lists {NORM} in b.safetensors, which does not hold"),
    "in two shards": (in_two_shards, "is in two shards: "),
    "in another shard": (in_another_shard, f"b.safetensors holds {NORM}, which {INDEX} lists in a"),
    "unlisted": (unlisted, f"b.safetensors holds {NORM}, which {INDEX} lists nowhere"),
    "wrong total": (wrong_total, "total_size is 7, but its shards hold"),
    "parent folder": (
        pointing("../x.safetensors"),
        "it must be a .safetensors file of this folder",
    ),
    "absolute path": (
        pointing("/etc/x.safetensors"),
        "it must be a .safetensors file of this folder",
    ),
    "subfolder": (pointing("a/x.safetensors"), "it must be a .safetensors file of this folder"),
    "backslash": (pointing("..\\x.safetensors"), "it must be a .safetensors file of this folder"),
    "NUL": (pointing("x\0.safetensors"), "it must be a .safetensors file of this folder"),
    "no name": (pointing(".."), "it must be a .safetensors file of this folder"),
    "number": (pointing(3), "it must be a .safetensors file of this folder"),
    "no map": (index_of({}), "has no weight_map"),
    "map is a list": (index_of({"weight_map": [1]}), "has no weight_map"),
    "index is a list": (index_of([]), "has no weight_map"),
    "index is no JSON": (index_of("{"), "is not readable as JSON"),
    "deep index": (index_of("[" * 100_000), "is not readable as JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused(tmp_path, case):
    make, message = BROKEN[case]
    make(tmp_path)
    with pytest.raises(DataError) as error:
        check(tmp_path)
    assert message in str(error.value)


def test_a_shard_outside_the_folder_is_not_read_even_if_it_is_there(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors(), tmp_path / "x.safetensors")
    weight_map = dict.fromkeys(tensors(), "../x.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(DataError, match="file of this folder"):
        Reader(folder)


def test_a_million_listed_tensors_are_refused_in_bounded_time(tmp_path):
    index_of({"weight_map": {f"t{i}": f"s{i}.safetensors" for i in range(1_000_000)}})(tmp_path)
    with pytest.raises(DataError, match="which is not in the folder"):
        Reader(tmp_path)


def test_a_billion_layers_are_refused_at_the_first_that_is_missing(tmp_path):
    save_file(tensors(), tmp_path / SINGLE)
    endless = ModelConfig(**{**vars(CONFIG), "layers": 10**9})
    with pytest.raises(DataError, match=r"lacks the tensor model.layers.2.input_layernorm.weight"):
        Reader(tmp_path).check(endless)


def test_random_damage_to_the_header_never_raises_anything_else(tmp_path):
    save_file(tensors(), tmp_path / SINGLE)
    whole = (tmp_path / SINGLE).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0] + 8
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(length)] = rng.integers(256)
        (tmp_path / SINGLE).write_bytes(damaged)
        try:
            check(tmp_path)
        except DataError:
            refused += 1
    assert refused > 200
