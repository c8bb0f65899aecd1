import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llama_jax
from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.converters import peft
from llama_jax.core import files, tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama
from llama_jax.model.lora import divide, merge


def test_every_kind_of_folder_gives_the_same_model(hugging, run):
    paths = (hugging, run, str(run), run / "checkpoints/0")
    logits = [np.asarray(llama_jax.load(path).logits([1, 5, 9])) for path in paths]
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0], other)
    np.testing.assert_array_equal(logits[0], llama_jax.load(run, step=0).logits([1, 5, 9]))


@pytest.mark.parametrize("kind", ["hugging", "run"])
def test_dtype_is_that_of_the_parameters(kind, request):
    path = request.getfixturevalue(kind)
    for asked, found in ((None, "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")):
        params = llama_jax.load(path, dtype=asked).params
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {found}


def test_ids_of_the_generation_settings_end_a_text_too(hugging, run):
    assert llama_jax.load(hugging)._generator._end_E.tolist() == [2, 7]
    assert llama_jax.load(run)._generator._end_E.tolist() == [2]


def test_only_load_is_a_name_of_the_package():
    with pytest.raises(AttributeError, match="module 'llama_jax' has no attribute 'lod'"):
        _ = llama_jax.lod


def test_what_cannot_be_loaded_is_told(hugging, run, words, tmp_path):
    bare = shutil.copytree(hugging, tmp_path / "bare")
    (bare / "tokenizer.model").unlink()
    for sentence, path, settings in (
        ("holds no config.json", tmp_path, {}),
        ("holds no config.json", tmp_path / "nothing", {}),
        ("holds no tokenizer.json and no tokenizer.model. Name", bare, {}),
        ("dtype is 'int8'; it must be one of 'float32', 'bfloat16'", run, {"dtype": "int8"}),
        ("a Hugging Face folder, which has no steps", hugging, {"step": 3}),
        ("holds no checkpoint of step 3; it holds 0", run, {"step": 3}),
        ("step is 3 but .* is the checkpoint of step 0", run / "checkpoints/0", {"step": 3}),
        ("nowhere does not exist", run, {"tokenizer": tmp_path / "nowhere"}),
    ):
        with pytest.raises(ValueError, match=sentence):
            llama_jax.load(path, **settings)
    assert llama_jax.load(bare, tokenizer=words).tokenizer.bos_id == 1


def test_an_end_id_outside_the_vocabulary_is_damage(hugging, tmp_path):
    damaged = shutil.copytree(hugging, tmp_path / "damaged")
    files.write_json(damaged / "generation_config.json", {"eos_token_id": 320})
    with pytest.raises(DataError, match=r"eos_token_id holds 320; it must be in \[0, 320\)"):
        llama_jax.load(damaged)


def test_adapters_are_merged_into_what_is_loaded(hugging, params, tmp_path):
    config = llama_jax.load(hugging).config
    lora = LoraConfig(r=2, targets=("attention/*",))
    shapes = divide(llama.abstract(config, ComputeConfig(), lora=lora)[1])[0]
    adapters = jax.tree.map(lambda s: jnp.full(s.shape, 0.1, s.dtype), shapes)
    peft.write(tmp_path, lora, config, tree.named_leaves(adapters).__getitem__, str(hugging))
    want = tree.named_leaves(merge(params, adapters, lora.scale))
    for model in (llama_jax.load(hugging, adapter=tmp_path), llama_jax.load(tmp_path)):
        for name, leaf in tree.named_leaves(model.params).items():
            np.testing.assert_allclose(leaf, want[name], rtol=1e-6)
        assert model.tokenizer.sha256 == llama_jax.load(hugging).tokenizer.sha256
