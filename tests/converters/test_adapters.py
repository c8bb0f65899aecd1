"""Adapters find their base, and only that one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llama_jax import convert
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config import load
from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.train import CheckpointConfig
from llama_jax.converters import adapters, huggingface, huggingface_config, peft, weights
from llama_jax.core import files, tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama, lora, quantized

MODEL = ModelConfig(
    layers=2, embed=16, mlp=24, heads=2, kv_heads=1, head_dim=8, vocab=32, context=64
)
LORA = LoraConfig(r=2, targets=("*",), alpha=4.0)


def params_of(seed, config=llama.NO_LORA):
    rng = np.random.default_rng(seed)
    _, shapes = llama.abstract(MODEL, ComputeConfig(), lora=config)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


def base_folder(folder, seed=0):
    folder.mkdir(exist_ok=True)
    read = huggingface.reader_of(tree.named_leaves(params_of(seed)).__getitem__, MODEL, "float32")
    huggingface.write(folder, huggingface_config.to_theirs(MODEL, dtype="float32"), MODEL, read)
    return folder


@pytest.fixture
def base(tmp_path):
    return base_folder(tmp_path / "base")


@pytest.fixture
def run(tmp_path, base):
    """A run of adapters on `base`, at step 3."""
    folder = tmp_path / "run"
    folder.mkdir()
    values = {"model": load.as_dict(MODEL), "settings": {"lora": load.as_dict(LORA)}}
    files.write_json(folder / "config.json", values)
    mark = weights.find(base).fingerprint()
    meta = {"base": dataclasses.asdict(adapters.Base(str(base), 0, mark))}
    state = {"params": lora.divide(params_of(1, LORA))[0]}
    with CheckpointManager(folder / "checkpoints", CheckpointConfig()) as manager:
        manager.save(3, state, meta, wait=True)
    return folder


def merged():
    adapted = lora.divide(params_of(1, LORA))[0]
    return tree.named_leaves(lora.merge(params_of(0), adapted, LORA.scale))


def test_a_run_of_adapters_is_its_base_and_what_it_learned(run):
    found = weights.find(run)
    assert (found.step, found.model) == (3, MODEL)
    whole = tree.named_leaves(found.read())
    for name, want in merged().items():
        np.testing.assert_allclose(whole[name], want, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found.leaf(name), whole[name])


def test_what_was_trained_on_a_quantized_base_is_merged_into_that(run):
    lora_settings = dataclasses.replace(LORA, targets=("attention/q", "embed"), quantization="int8")
    found = adapters.find(run)
    found = dataclasses.replace(found, lora=lora_settings)
    read = found.read(MODEL)
    for name, plain in tree.named_leaves(params_of(0)).items():
        got = adapters.merged_leaf(found, MODEL, name, np.asarray(plain))
        want = plain
        if quantized.applies(lora_settings, name):
            want = jnp.stack([quantized.round_trip(lora_settings, name, w) for w in plain])
            assert jnp.any(want != plain), name
        folder = name.rpartition("/")[0]
        if f"{folder}/lora/a" in read:
            pair = (read[f"{folder}/lora/{part}"] for part in "ab")
            want = lora.merged_leaf(name, want, *pair, scale=LORA.scale)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_base_that_changed_is_refused_unless_it_is_named(run, base):
    base_folder(base, seed=5)
    with pytest.raises(ValueError, match=r"has changed since .* its fingerprint is another"):
        weights.find(run)
    assert weights.find(base, adapter=run).step == 3


def test_a_base_that_is_gone_is_asked_for(run, base, tmp_path):
    base.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"their base is not at {base}. Name the base"):
        weights.find(run)
    assert weights.find(tmp_path / "moved", adapter=run).model == MODEL


def test_the_fingerprint_is_of_the_tensors_and_not_of_their_files(base, tmp_path):
    mark = weights.find(base).fingerprint()
    convert.main([str(base), str(tmp_path / "cut"), "--format=hf", "--shard_gigabytes=0.000005"])
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    assert weights.find(tmp_path / "cut").fingerprint() == mark
    assert weights.find(base_folder(tmp_path / "other", seed=1)).fingerprint() != mark


def test_a_run_is_exported_as_peft_and_merged(run, base, tmp_path):
    convert.main([str(run), str(tmp_path / "peft"), "--format=peft"])
    settings = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 4)
    assert settings["base_model_name_or_path"] == str(base)
    again, first = adapters.find(tmp_path / "peft"), adapters.find(run)
    assert again.lora.adapted == first.lora.adapted
    for name, array in first.read(MODEL).items():
        np.testing.assert_array_equal(again.read(MODEL)[name], array)
    convert.main([str(run), str(tmp_path / "hf"), "--format=hf"])
    convert.main([str(tmp_path / "peft"), str(tmp_path / "ours"), "--format=orbax"])
    for folder in ("hf", "ours"):
        found = weights.find(tmp_path / folder)
        for name, want in merged().items():
            np.testing.assert_allclose(found.leaf(name), want, rtol=1e-6, atol=1e-6)


def test_misuse_of_the_door_is_explained(run, base, tmp_path):
    convert.main([str(run), str(tmp_path / "peft"), "--format=peft"])
    cases = {
        "is not a run of adapters": (base, "--format=peft"),
        "is not a run of adapters ": (tmp_path / "peft", "--format=peft"),
        "holds whole weights": (base, "--format=hf", f"--base={base}"),
        "--dtype has no effect": (run, "--format=peft", "--dtype=bfloat16"),
    }
    for message, (source, *flags) in cases.items():
        with pytest.raises(ValueError, match=message.strip()):
            convert.main([str(source), str(tmp_path / "x"), *flags])
        assert not (tmp_path / "x").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = sorted(peft._READ | peft._IGNORED | {"use_dora", "rank_pattern", "anything"})


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
@settings(max_examples=60)
def test_any_settings_of_peft_are_read_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    values = {"peft_type": "LORA", "r": 4} | changes
    (folder / peft.CONFIG).write_text(json.dumps(values))
    try:
        config, base = peft.read_settings(folder)
    except DataError as error:
        assert str(folder) in str(error)
        return
    assert config.r >= 1 and isinstance(base, str)
    assert not values.get("use_dora") and not values.get("rank_pattern")


WORDS = (
    "base_model.model. model. layers. 0. 9. self_attn. q_proj. embed_tokens. lm_head. lora_A "
    "lora_B.weight lora_embedding_A .weight base_layer"
)
NAMES = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=7).map("".join)


@given(st.dictionaries(NAMES, st.lists(st.integers(0, 3), max_size=3), max_size=4))
@settings(max_examples=50)
def test_any_tensors_of_peft_are_read_or_refused(tmp_path_factory, tensors):
    folder = tmp_path_factory.getbasetemp() / "tensors"
    folder.mkdir(exist_ok=True)
    (folder / peft.CONFIG).write_text('{"peft_type": "LORA", "r": 2}')
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, folder / peft.TENSORS)
    with pytest.raises(DataError, match=str(folder)):  # None of them is a whole adapter.
        peft.Folder(folder).read(MODEL)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "holds no adapters"),
        ({"x": (2, 2)}, "holds x, which is not read here"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (2, 16)}, "lacks base"),
        (
            {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (2, 8)},
            r"has shape \[2, 8\]; by adapter_config.json and the model it must be \[2, 16\]",
        ),
    ],
)
def test_tensors_that_do_not_belong_are_named(base, tmp_path, tensors, says):
    (tmp_path / peft.CONFIG).write_text('{"peft_type": "LORA", "r": 2}')
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, tmp_path / peft.TENSORS)
    with pytest.raises(DataError, match=says):
        weights.find(base, adapter=tmp_path)


def test_a_cut_file_is_refused(base, run, tmp_path):
    convert.main([str(run), str(tmp_path / "peft"), "--format=peft"])
    path = tmp_path / "peft" / peft.TENSORS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="is not a whole safetensors file"):
        weights.find(base, adapter=tmp_path / "peft")
    path.unlink()
    with pytest.raises(DataError, match=r"lacks adapter_model\.safetensors"):
        weights.find(base, adapter=tmp_path / "peft")
