"""Adapters are PEFT's: its logits are ours, and ours are read by it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama_jax import convert
from llama_jax.config.model import ComputeConfig
from llama_jax.converters import adapters, weights
from llama_jax.core import tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama, lora

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="peft is not installed; it comes with the test extra")

pytestmark = [
    pytest.mark.torch,
    # torch.jit and numpy's aliases; PEFT's advice on embeddings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "q and v, PEFT's default": {},
    "every linear map": {"target_modules": LINEAR, "lora_alpha": 16},
    "the embedding too": {"target_modules": [*LINEAR, "embed_tokens"], "r": 3},
    "rank-stabilized": {"target_modules": LINEAR, "use_rslora": True, "lora_dropout": 0.1},
    "by a pattern": {"target_modules": r".*\.(o|down)_proj"},
}
TOKENS = np.random.default_rng(0).integers(0, 128, (2, 33))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(folder)
    return folder


def adapted(base, folder, **settings):
    """A PEFT folder whose adapters are not at their beginning; returns PEFT's logits too."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", **({"target_modules": ["q_proj", "v_proj"]} | settings)
    )
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return logits(model)


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def ours(found):
    compute = ComputeConfig(dtype="float32", attention="reference")
    graph, _ = llama.abstract(found.model, compute)
    model = llama.merge(graph, found.read("float32"))
    return np.asarray(jax.jit(lambda t: model(t))(jnp.asarray(TOKENS, jnp.int32)))


def unmerged(base, folder):
    """Our logits with the adapters beside their base, as they are trained."""
    found, read = weights.find(base), adapters.find(folder)
    compute = ComputeConfig(dtype="float32", attention="reference")
    graph, shapes = llama.abstract(found.model, compute, lora=read.lora)
    named = read.read(found.model)
    pairs = tree.map_named(lambda name, _: jnp.asarray(named[name]), lora.divide(shapes)[0])
    params = lora.join(found.read("float32"), pairs)
    model = llama.merge(graph, params)
    return np.asarray(jax.jit(lambda t: model(t))(jnp.asarray(TOKENS, jnp.int32)))


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_are_those_of_peft(base, tmp_path, name):
    theirs = adapted(base, tmp_path / "peft", **ADAPTERS[name])
    merged = weights.find(base, adapter=tmp_path / "peft")
    assert np.abs(theirs - ours(weights.find(base))).max() > 1
    np.testing.assert_allclose(ours(merged), theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(unmerged(base, tmp_path / "peft"), theirs, rtol=0, atol=1e-4)


def test_merged_weights_are_exported_and_the_base_is_found_where_it_is_named(base, tmp_path):
    theirs = adapted(base, tmp_path / "peft", target_modules=LINEAR)
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    run(tmp_path / "peft", tmp_path / "merged", "--format=hf")
    run(tmp_path / "peft", tmp_path / "given", "--format=hf", f"--base={base}")
    for folder in ("merged", "given"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        np.testing.assert_allclose(logits(model), theirs, rtol=0, atol=1e-4)
    run(tmp_path / "peft", tmp_path / "ours", "--format=orbax")
    np.testing.assert_allclose(ours(weights.find(tmp_path / "ours")), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["the embedding too", "rank-stabilized"])
def test_adapters_of_ours_are_read_by_peft(base, tmp_path, name):
    theirs = adapted(base, tmp_path / "peft", **ADAPTERS[name])
    found = adapters.find(tmp_path / "peft")
    model = weights.find(base).model
    (tmp_path / "back").mkdir()
    from llama_jax.converters import peft as ours_peft

    named = found.read(model)
    ours_peft.write(tmp_path / "back", found.lora, model, named.__getitem__, str(base))
    again = load_file(tmp_path / "back/adapter_model.safetensors")
    first = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert set(first) - set(again) <= {"base_model.model.model.embed_tokens.base_layer.weight"}
    for tensor, array in again.items():
        np.testing.assert_array_equal(array, first[tensor])
    read = transformers.AutoModelForCausalLM.from_pretrained(base)
    read = peft.PeftModel.from_pretrained(read, tmp_path / "back").eval()
    np.testing.assert_array_equal(logits(read), theirs)


REFUSED = {
    "DoRA": ({"use_dora": True}, "use_dora is True, which is not done here"),
    "ranks by module": (
        {"rank_pattern": {"q_proj": 4}},
        "rank_pattern is {'q_proj': 4}, which is not done here",
    ),
    "alphas by module": (
        {"alpha_pattern": {"q_proj": 4}},
        "alpha_pattern is {'q_proj': 4}, which is not done here",
    ),
    "some layers": ({"layers_to_transform": [1]}, "layers_to_transform is \\[1\\]"),
    "the head": ({"target_modules": ["lm_head"]}, r"lm_head.*, which is not read here"),
    "biases": ({"bias": "all"}, "bias is 'all'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save is \\['lm_head'\\]"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_model_is_refused(base, tmp_path, name):
    settings, says = REFUSED[name]
    adapted(base, tmp_path / "peft", **settings)
    with pytest.raises(DataError, match=says):
        weights.find(base, adapter=tmp_path / "peft")


def test_an_embedding_that_is_not_the_base_s_is_refused(base, tmp_path):
    adapted(base, tmp_path / "peft", target_modules=["embed_tokens"])
    path = tmp_path / "peft/adapter_model.safetensors"
    tensors = load_file(path)
    copy = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file(tensors | {copy: tensors[copy] + 1}, path)
    with pytest.raises(DataError, match="holds an embedding of its own"):
        weights.find(base, adapter=tmp_path / "peft")


def test_adapters_of_another_model_are_refused(base, tmp_path):
    adapted(base, tmp_path / "peft")
    found = adapters.find(tmp_path / "peft")
    model = weights.find(base).model
    with pytest.raises(DataError, match=r"has shape .* it must be"):
        found.read(dataclasses.replace(model, kv_heads=4))
    with pytest.raises(DataError, match="which this model has no place for"):
        found.read(dataclasses.replace(model, layers=1))
    with pytest.raises(DataError, match="is adapted in all layers or in none"):
        found.read(dataclasses.replace(model, layers=3))
