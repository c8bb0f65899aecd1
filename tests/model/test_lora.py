import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.lora import ADAPTABLE, LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.core import tree
from llama_jax.model import llama, lora
from llama_jax.sharding import place

MODEL = ModelConfig(
    layers=2, embed=32, mlp=48, heads=4, kv_heads=2, head_dim=8, vocab=50, context=64
)
COMPUTE = ComputeConfig(dtype="float32", attention_chunk=4, remat="none")
LORA = LoraConfig(r=3, targets=("*",), alpha=6.0)
TOKENS = jax.random.randint(jax.random.key(1), (2, 12), 0, MODEL.vocab)


def params_of(config: LoraConfig = LORA):
    return jax.jit(lambda: llama.create(MODEL, COMPUTE, 0, config))()


def trained(config: LoraConfig = LORA):
    """Parameters whose adapters are no longer at their beginning."""

    def moved(name, leaf):
        if "/lora/" not in name:
            return leaf
        return 0.3 * jax.random.normal(jax.random.key(len(name)), leaf.shape)

    return tree.map_named(moved, params_of(config))


@functools.cache
def compiled(config: LoraConfig):
    graph, _ = llama.abstract(MODEL, COMPUTE, lora=config)
    position_BT = jnp.broadcast_to(jnp.arange(12)[None], TOKENS.shape)

    def forward(params, key):
        model = llama.merge(graph, params)
        return model.hidden(TOKENS, position_BT, llama.causal_mask(MODEL), dropout_key=key)[0]

    return jax.jit(forward)


def hidden(params, config=LORA, key=None):
    return compiled(config)(params, key)


def test_fresh_adapters_change_no_bit_and_the_base_is_that_of_a_run_without():
    params = params_of()
    base = lora.divide(params)[1]
    plain = params_of(LoraConfig())
    jax.tree.map(np.testing.assert_array_equal, base, plain)
    np.testing.assert_array_equal(hidden(params), hidden(plain, LoraConfig()))


def test_every_target_has_an_adapter_that_changes_the_result():
    params = trained()
    whole = hidden(params)
    for target in ADAPTABLE:
        folder = params["layers"] if "/" in target else params
        for word in target.split("/"):
            folder = folder[word]
        kept, folder["lora"] = folder["lora"], jax.tree.map(jnp.zeros_like, folder["lora"])
        assert jnp.abs(hidden(params) - whole).max() > 1e-3, target
        folder["lora"] = kept


def test_only_what_is_named_is_adapted():
    named = tree.named_leaves(llama.abstract(MODEL, COMPUTE, lora=LoraConfig(r=2))[1])
    found = {name.split("/lora/")[0] for name in named if "/lora/" in name}
    assert found == {"layers/attention/q", "layers/attention/v"}


def test_a_is_drawn_as_peft_draws_it_and_b_is_zero():
    config = dataclasses.replace(LORA, r=64)
    adapter = params_of(config)["layers"]["attention"]["o"]["lora"]
    bound = 1 / math.sqrt(4 * 8)  # sqrt(6 / ((1 + 5) inputs))
    assert jnp.abs(adapter["a"]).max() <= bound
    np.testing.assert_allclose(adapter["a"].std(), bound / math.sqrt(3), rtol=0.03)
    assert not adapter["b"].any() and jnp.all(adapter["a"][0] != adapter["a"][1])
    embed = params_of(config)["embed"]["lora"]
    assert not embed["a"].any() and 0.9 < embed["b"].std() < 1.1


@pytest.mark.parametrize("stable", [False, True])
def test_merged_weights_are_the_adapted_model_and_unmerged_ones_the_base(stable):
    config = dataclasses.replace(LORA, rank_stabilized=stable)
    assert config.scale == pytest.approx(6 / (math.sqrt(3) if stable else 3))
    params = trained(config)
    adapters, base = lora.divide(params)
    merged = lora.merge(base, adapters, config.scale)
    got, want = hidden(merged, LoraConfig()), hidden(params, config)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert jnp.abs(want - hidden(base, LoraConfig())).max() > 0.1
    again = lora.merge(merged, adapters, -config.scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, base)


def test_divided_parameters_join_again():
    params = params_of()
    adapters, base = lora.divide(params)
    names = set(tree.named_leaves(adapters))
    assert names and all("/lora/" in name for name in names)
    assert not any("/lora/" in name for name in tree.named_leaves(base))
    jax.tree.map(np.testing.assert_array_equal, lora.join(base, adapters), params)


def test_every_adapter_has_its_dimensions_in_the_sharding_table():
    named = tree.named_leaves(llama.abstract(MODEL, COMPUTE, lora=LORA)[1])
    for name, leaf in named.items():
        dims = place.param_dims(name)
        assert len(dims) == leaf.ndim, name
        if "/lora/" not in name:
            continue
        folder = name.split("/lora/")[0]
        base = f"{folder}/{'embedding' if folder == 'embed' else 'kernel'}"
        # Inputs of a and outputs of b are those of the base.
        a, b = (place.param_dims(f"{folder}/lora/{part}") for part in "ab")
        skip = 1 if name.startswith("layers/") else 0
        assert (*a[:-1], *b[skip + 1 :]) == place.param_dims(base)


def loss(params, config=LORA):
    pull_BTD = jax.random.normal(jax.random.key(2), (*TOKENS.shape, MODEL.embed))
    return jnp.sum(hidden(params, config) * pull_BTD)


def test_gradients_of_adapters_are_those_of_the_plain_formula():
    """Against the whole model's own gradients: dW carries to a and b by the chain rule."""
    adapters, base = lora.divide(trained())
    got = tree.named_leaves(jax.grad(lambda a: loss(lora.join(base, a)))(adapters))
    merged = lora.merge(base, adapters, LORA.scale)
    dmerged = tree.named_leaves(jax.grad(loss)(merged, LoraConfig()))
    for target in ADAPTABLE:
        name = f"layers/{target}" if "/" in target else target
        dw = dmerged[f"{name}/{'kernel' if '/' in target else 'embedding'}"]
        pair = [tree.named_leaves(adapters)[f"{name}/lora/{part}"] for part in "ab"]
        inputs = pair[0].ndim - 1 - ("/" in target)

        def chain(dw, a, b, inputs=inputs):
            da = jnp.tensordot(dw, b, axes=([*range(inputs, dw.ndim)], [*range(1, b.ndim)]))
            db = jnp.tensordot(a, dw, axes=([*range(inputs)], [*range(inputs)]))
            return LORA.scale * da, LORA.scale * db

        want = (jax.vmap(chain) if "/" in target else chain)(dw, *pair)
        for part, value in zip("ab", want, strict=True):
            size = jnp.abs(value).max()
            np.testing.assert_allclose(got[f"{name}/lora/{part}"] / size, value / size, atol=1e-5)


def test_no_gradient_of_the_base_is_computed():
    """The backward program has, of each product with a base's matrix, that of x alone."""
    config = dataclasses.replace(LORA, targets=("attention/q",))
    adapters, base = lora.divide(params_of(config))
    grad = jax.grad(lambda a: loss(lora.join(base, a), config))
    text = str(jax.make_jaxpr(grad)(adapters))
    # Shapes that only the gradient of a matrix (or of its layers) has.
    d, f, n = MODEL.embed, MODEL.mlp, MODEL.heads * MODEL.head_dim
    for product in (f"f32[{d},{f}] = dot_general", f"f32[{n},{d}] = dot_general"):
        assert product not in text
    plain = str(jax.make_jaxpr(lambda p: jax.grad(loss)(p, LoraConfig()))(base))
    assert f"f32[{d},{f}] = dot_general" in plain  # The words are those of a whole gradient.


def test_dropout_is_of_what_goes_into_a():
    """With a of one token's worth kept or dropped, the mean over keys is the result without."""
    config = dataclasses.replace(LORA, targets=("attention/o",), dropout=0.5)
    params = trained(config)
    plain = hidden(params, config)
    one, same, other = (hidden(params, config, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert jnp.any(one != other) and jnp.any(one != plain)
    without = dataclasses.replace(config, dropout=0.0)
    np.testing.assert_array_equal(hidden(params, without, jax.random.key(0)), plain)


def test_an_adapter_drops_a_share_and_scales_the_rest():
    from flax import nnx

    config = LoraConfig(r=64, targets=("mlp/up",), dropout=0.25, alpha=64.0)
    adapter = lora.Adapter(config, (64,), (64,), "mlp/up", None, nnx.Rngs(0))
    adapter.a[...], adapter.b[...] = jnp.eye(64), jnp.eye(64)
    y = adapter(jnp.ones((4, 64, 64)), jax.random.key(0))
    # Three standard deviations of a mean of 16,384 draws are 0.01.
    np.testing.assert_allclose((y == 0).mean(), 0.25, atol=0.01)
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(adapter(jnp.ones((4, 64, 64)), None), 1.0)
    adapter.number += 1  # Another adapter of the same layer, which draws zeros of its own.
    assert jnp.any((adapter(jnp.ones((4, 64, 64)), jax.random.key(0)) == 0) != (y == 0))


def test_adapters_are_stored_in_their_own_dtype():
    compute = ComputeConfig(param_dtype="bfloat16")
    named = tree.named_leaves(llama.abstract(MODEL, compute, lora=LORA)[1])
    dtypes = {"/lora/" in name: str(leaf.dtype) for name, leaf in named.items()}
    assert dtypes == {True: "float32", False: "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r": -1}, "r is -1; it must be"),
        ({"r": 0, "alpha": 4.0}, "alpha is 4.0 but r is 0, so it has no effect"),
        ({"r": 0, "quantization": "nf4"}, "quantization is 'nf4' but r is 0"),
        ({"targets": ("head",)}, "targets holds 'head', which the loss multiplies"),
        ({"targets": ("mpl/*",)}, "targets holds 'mpl/\\*', which matches none of"),
        ({"targets": ()}, "targets is empty"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be positive"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in"),
        ({"targets": ("embed",), "dropout": 0.1}, "dropout is set but only embed is adapted"),
        ({"double_quantization": False}, "double_quantization is False but quantization is"),
    ],
)
def test_settings_that_cannot_be_are_explained(changes, says):
    with pytest.raises(ValueError, match=says):
        LoraConfig(**({"r": 4} | changes))
