import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config import presets
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.core import tree
from llama_jax.model import llama, vocabulary
from llama_jax.sharding import place

CONFIG = ModelConfig(
    layers=2, embed=32, mlp=48, heads=4, kv_heads=2, head_dim=8, vocab=50, context=64
)
COMPUTE = ComputeConfig(dtype="float32", attention_chunk=4, remat="none")
B, T = 2, 12

# The checkpoints' own totals: V D + L (2 D N H + 2 D K H + 3 D F + 2 D) + D + D V.
COUNTS = {
    "LLAMA2_7B": 6_738_415_616,
    "LLAMA2_7B_32K": 6_738_415_616,
    "LLAMA2_13B": 13_015_864_320,
    "LLAMA2_13B_8K": 13_016_028_160,
    "LLAMA2_34B": 33_743_970_304,
    "LLAMA2_70B": 68_976_648_192,
    "MISTRAL_7B": 7_241_732_096,
    "OPENHERMES_MISTRAL_7B": 7_241_748_480,
}


def params_of(config: ModelConfig = CONFIG, seed: int = 0) -> llama.Params:
    return jax.jit(lambda: llama.create(config, COMPUTE, seed))()


def logits_of(params, token_BT, config=CONFIG, compute=COMPUTE, segment_BT=None, position_BT=None):
    graph, _ = llama.abstract(config, compute)
    if position_BT is None:
        position_BT = jnp.broadcast_to(jnp.arange(token_BT.shape[1])[None], token_BT.shape)
    model = llama.merge(graph, params)
    mask = llama.causal_mask(config, segment_BT)
    return model.logits(model.hidden(token_BT, position_BT, mask)[0])


@pytest.fixture
def token_BT():
    return jax.random.randint(jax.random.key(1), (B, T), 0, CONFIG.vocab)


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_published_number_of_parameters(name):
    _, shapes = llama.abstract(getattr(presets, name), ComputeConfig())
    assert tree.size(shapes) == COUNTS[name]


def test_every_preset_is_counted():
    assert {name for name in vars(presets) if name.isupper()} == set(COUNTS)


def test_every_parameter_has_its_dimensions_in_the_sharding_table():
    config = dataclasses.replace(CONFIG, attention_bias=True)
    _, shapes = llama.abstract(config, COMPUTE)
    for name, leaf in tree.named_leaves(shapes).items():
        assert len(place.param_dims(name)) == leaf.ndim, name


def test_logits_do_not_depend_on_later_tokens(token_BT):
    params, t = params_of(), 5
    changed_BT = token_BT.at[:, t + 1 :].set(7)
    before, after = logits_of(params, token_BT), logits_of(params, changed_BT)
    np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])
    assert jnp.any(before[:, t + 1 :] != after[:, t + 1 :])


def test_a_window_forgets_what_is_before_it(token_BT):
    config = dataclasses.replace(CONFIG, window=3, layers=1)
    params = params_of(config)
    changed_BT = token_BT.at[:, 0].set((token_BT[:, 0] + 1) % CONFIG.vocab)
    before, after = logits_of(params, token_BT, config), logits_of(params, changed_BT, config)
    assert jnp.any(before[:, 2] != after[:, 2])
    np.testing.assert_array_equal(before[:, 3:], after[:, 3:])


def test_a_packed_row_equals_its_documents_alone(token_BT):
    params = params_of()
    segment_BT = jnp.broadcast_to(jnp.array([1] * 5 + [2] * 7)[None], (B, T))
    position_BT = jnp.broadcast_to(jnp.concatenate([jnp.arange(5), jnp.arange(7)])[None], (B, T))
    packed = logits_of(params, token_BT, segment_BT=segment_BT, position_BT=position_BT)
    np.testing.assert_allclose(packed[:, :5], logits_of(params, token_BT[:, :5]), atol=1e-5)
    np.testing.assert_allclose(packed[:, 5:], logits_of(params, token_BT[:, 5:]), atol=1e-5)


def test_tied_logits_are_products_with_the_embedding(token_BT):
    config = dataclasses.replace(CONFIG, tie_embeddings=True)
    params = params_of(config)
    assert "head" not in params
    graph, _ = llama.abstract(config, COMPUTE)
    np.testing.assert_array_equal(
        llama.merge(graph, params).head_DV, params["embed"]["embedding"].T
    )
    untied = params | {"head": {"kernel": params["embed"]["embedding"].T}}
    np.testing.assert_array_equal(logits_of(params, token_BT, config), logits_of(untied, token_BT))


def loss_and_grads(params, token_BT, compute, dropout_key=None, config=CONFIG):
    graph, _ = llama.abstract(config, compute)
    position_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))

    def loss(params):
        mask = llama.causal_mask(config)
        model = llama.merge(graph, params)
        x_BTD, _ = model.hidden(token_BT, position_BT, mask, dropout_key=dropout_key)
        return jnp.mean(jnp.square(model.logits(x_BTD)))

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("policy", ["minimal", "attention", "full", "offload"])
def test_remat_changes_neither_loss_nor_gradient(policy, token_BT):
    params = params_of()
    want = loss_and_grads(params, token_BT, COMPUTE)
    got = loss_and_grads(params, token_BT, dataclasses.replace(COMPUTE, remat=policy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, want)


def test_remat_policies_keep_less_and_less(token_BT):
    config = dataclasses.replace(CONFIG, layers=8)
    _, shapes = llama.abstract(config, COMPUTE)
    tokens = jax.ShapeDtypeStruct((8, 64), jnp.int32)

    def temporary_bytes(policy):
        compute = dataclasses.replace(COMPUTE, remat=policy)
        graph, _ = llama.abstract(config, compute)
        loss = jax.grad(lambda params, t: llama.merge(graph, params)(t).sum())
        return jax.jit(loss).lower(shapes, tokens).compile().memory_analysis().temp_size_in_bytes

    policies = ("none", "minimal", "attention", "full")
    sizes = [temporary_bytes(policy) for policy in policies]
    assert sizes == sorted(set(sizes), reverse=True), dict(zip(policies, sizes, strict=True))


def test_lima_dropout_spares_the_first_layer_and_grows_to_the_last():
    config = dataclasses.replace(CONFIG, layers=5, residual_dropout=0.4)
    from llama_jax.model import dropout

    drop = dropout.by_layer(config, jax.random.key(0))
    np.testing.assert_allclose(drop.rate, [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    x_BTD = jnp.ones((4, 64, 64))
    for layer, rate in enumerate([0, 0.1, 0.2, 0.3, 0.4]):
        out = dropout.Drop(drop.key[layer], drop.rate[layer])(x_BTD, 0)
        # Three standard deviations of a mean of 16,384 draws at rate 0.4 are 0.015.
        np.testing.assert_allclose((out == 0).mean(), rate, atol=0.015)
        np.testing.assert_allclose(out.mean(), 1, atol=0.025)


def test_dropout_acts_only_with_a_key(token_BT):
    config = dataclasses.replace(CONFIG, residual_dropout=0.5)
    params = params_of(config)
    plain = loss_and_grads(params, token_BT, COMPUTE, None, config)[0]
    np.testing.assert_array_equal(plain, loss_and_grads(params, token_BT, COMPUTE)[0])
    one = loss_and_grads(params, token_BT, COMPUTE, jax.random.key(0), config)[0]
    same = loss_and_grads(params, token_BT, COMPUTE, jax.random.key(0), config)[0]
    other = loss_and_grads(params, token_BT, COMPUTE, jax.random.key(1), config)[0]
    assert one == same
    assert len({float(plain), float(one), float(other)}) == 3


def test_dtypes_are_those_of_the_settings(token_BT):
    compute = ComputeConfig(param_dtype="bfloat16", dtype="bfloat16", remat="none")
    params = jax.jit(lambda: llama.create(CONFIG, compute, 0))()
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    assert logits_of(params, token_BT, compute=compute).dtype == jnp.float32
    graph, _ = llama.abstract(CONFIG, compute)
    position_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    x_BTD, _ = llama.merge(graph, params).hidden(token_BT, position_BT, llama.causal_mask(CONFIG))
    assert x_BTD.dtype == jnp.bfloat16


def test_the_program_does_not_grow_with_depth():
    def size(layers):
        config = dataclasses.replace(CONFIG, layers=layers)
        graph, shapes = llama.abstract(config, COMPUTE)
        tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
        lowered = jax.jit(lambda params, t: llama.merge(graph, params)(t)).lower(shapes, tokens)
        return len(lowered.as_text().splitlines())

    assert size(2) == size(16)


@pytest.mark.parametrize("tied", [False, True])
def test_a_grown_vocabulary_keeps_old_rows_and_old_logits(tied, token_BT):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    larger = dataclasses.replace(config, vocab=56)
    params = params_of(config)
    row = np.where(np.arange(56) < 50, np.arange(56), -1)
    grown = vocabulary.arrange(params, larger, row, "normal", jax.random.key(0))
    _, shapes = llama.abstract(larger, COMPUTE)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_array_equal(grown["embed"]["embedding"][:50], params["embed"]["embedding"])
    before, after = logits_of(params, token_BT, config), logits_of(grown, token_BT, larger)
    np.testing.assert_allclose(before, after[..., :50], atol=1e-6)
    assert 0.01 < jnp.std(grown["embed"]["embedding"][50:]) < 0.03


def test_initial_weights_are_normal_with_the_set_deviation():
    config = dataclasses.replace(CONFIG, embed=64, mlp=256, init_std=0.05)
    params = params_of(config)
    assert jnp.all(params["layers"]["mlp_norm"]["scale"] == 1)
    gate = params["layers"]["mlp"]["gate"]["kernel"]
    np.testing.assert_allclose(gate.std(), 0.05, rtol=0.03)
    assert jnp.all(gate[0] != gate[1])  # Layers draw their own.


def test_scaling_reaches_the_logits(token_BT):
    params = params_of()
    linear = dataclasses.replace(CONFIG, rope=RopeConfig(scaling="linear", factor=4.0))
    assert (
        jnp.max(jnp.abs(logits_of(params, token_BT) - logits_of(params, token_BT, linear))) > 1e-4
    )
