"""The name map is a bijection onto Hugging Face's tensors, and says each transpose once."""

import numpy as np
import pytest

from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import names
from llama_jax.core import tree
from llama_jax.model import llama

CONFIG = ModelConfig(
    layers=3, embed=10, mlp=14, heads=4, kv_heads=2, head_dim=6, vocab=7, attention_bias=True
)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_map_names_exactly_the_parameters_of_the_model_with_their_shapes(tie, bias):
    config = ModelConfig(**{**vars(CONFIG), "tie_embeddings": tie, "attention_bias": bias})
    _, params = llama.abstract(config, ComputeConfig())
    ours = {name: leaf.shape for name, leaf in tree.named_leaves(params).items()}
    assert {tensor.ours: tensor.shape for tensor in names.tensors(config)} == ours


def test_to_theirs_undoes_to_ours_for_every_tensor():
    for tensor in names.tensors(CONFIG):
        theirs = np.arange(np.prod(tensor.their_shape)).reshape(tensor.their_shape)
        ours = tensor.to_ours(theirs)
        assert ours.shape == tensor.shape[bool(tensor.layers) :]
        np.testing.assert_array_equal(tensor.to_theirs(ours), theirs)


@pytest.mark.parametrize("letter, heads", [("q", 4), ("k", 2), ("v", 2)])
def test_a_kernel_and_its_bias_act_as_torch_linear_does(letter, heads):
    named = {tensor.ours: tensor for tensor in names.tensors(CONFIG)}
    kernel = named[f"layers/attention/{letter}/kernel"]
    bias = named[f"layers/attention/{letter}/bias"]
    rng = np.random.default_rng(0)
    weight, b = rng.normal(size=kernel.their_shape), rng.normal(size=bias.their_shape)
    x_D = np.arange(10.0)
    got_NH = np.einsum("D,DNH->NH", x_D, kernel.to_ours(weight)) + bias.to_ours(b)
    np.testing.assert_allclose(got_NH, (weight @ x_D + b).reshape(heads, 6))


def test_an_output_kernel_multiplies_as_torch_linear_does():
    o = next(t for t in names.tensors(CONFIG) if t.ours == "layers/attention/o/kernel")
    weight = np.random.default_rng(0).normal(size=o.their_shape)
    x_NH = np.arange(24.0).reshape(4, 6)
    np.testing.assert_allclose(
        np.einsum("NH,NHD->D", x_NH, o.to_ours(weight)), weight @ x_NH.reshape(-1)
    )


def test_stored_frequencies_are_ignored_and_a_head_only_when_tied():
    tied = ModelConfig(**{**vars(CONFIG), "tie_embeddings": True})
    assert names.is_ignored("model.layers.0.self_attn.rotary_emb.inv_freq", CONFIG)
    assert names.is_ignored("lm_head.weight", tied)
    assert not names.is_ignored("lm_head.weight", CONFIG)
    assert not names.is_ignored("model.layers.9.mlp.up_proj.weight", CONFIG)
