"""Golden values: recipes of the papers computed in float64 (theta 1e4, head size 128)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.rope import RopeConfig
from llama_jax.model import rope

B, T, N, H = 2, 16, 3, 8
NTK_8 = RopeConfig(scaling="ntk", factor=8.0)
LLAMA3 = RopeConfig(theta=5e5, scaling="llama3", factor=8.0, original_context=8192)


def yarn(factor: float) -> RopeConfig:
    return RopeConfig(scaling="yarn", factor=factor, original_context=4096)


GOLDEN = {
    "default": (
        RopeConfig(),
        {
            0: 1,
            1: 0.865964323,
            16: 0.1,
            31: 0.0115478198,
            32: 0.01,
            47: 0.00115478198,
            63: 0.000115478198,
        },
    ),
    "linear 8": (
        RopeConfig(scaling="linear", factor=8.0),
        {0: 0.125, 1: 0.10824554, 16: 0.0125, 63: 1.44347748e-05},
    ),
    "ntk 8": (NTK_8, {0: 1.0, 63: 1.44347748e-05}),
    "yarn 8": (yarn(8.0), {31: 0.00727290577, 32: 0.00596153846, 47: 0.000144347748}),
    "yarn 16": (yarn(16.0), {31: 0.00696755476, 32: 0.00567307692}),
    "yarn 32": (yarn(32.0), {31: 0.00681487926, 32: 0.00552884615}),
    "llama3": (
        LLAMA3,
        {
            28: 0.00321144599,
            29: 0.00216657076,
            31: 0.000856751413,
            32: 0.000524846161,
            34: 0.000178507813,
            35: 9.55621235e-05,
            47: 8.16072825e-06,
            63: 3.06892599e-07,
        },
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_frequencies_are_the_published_ones(name):
    config, values = GOLDEN[name]
    inv_freq_R = rope.inverse_frequencies(config, 128).astype(np.float64)
    np.testing.assert_allclose(inv_freq_R[list(values)], list(values.values()), rtol=1e-7)


@pytest.mark.parametrize(
    ("length", "original", "factor", "base"),
    [(8192, 4096, 2.0, 30527.7367), (32768, 4096, 8.0, 607779.273), (5000, 4096, 1.0, 12245.7339)],
)
def test_the_dynamic_base_is_the_published_one(length, original, factor, base):
    config = RopeConfig(scaling="dynamic", factor=factor, original_context=original)
    np.testing.assert_allclose(rope.dynamic_base(config, 128, length), base, rtol=1e-7)
    in_jax_R = rope.dynamic_inverse_frequencies(config, 128, jnp.array([length]))[0]
    # 1e-5: the power is taken in float32 here, since the length is only known on the device.
    np.testing.assert_allclose(in_jax_R, base ** -(np.arange(0, 128, 2) / 128), rtol=1e-5)


def test_the_ntk_base_is_the_published_one():
    last = rope.inverse_frequencies(RopeConfig(scaling="ntk", factor=2.0), 128)[63]
    np.testing.assert_allclose(last.astype(np.float64), 20221.2617 ** -(126 / 128), rtol=1e-7)


@pytest.mark.parametrize(
    ("factor", "gain"), [(8.0, 1.20794415), (16.0, 1.27725887), (32.0, 1.34657359)]
)
def test_yarn_attention_factor_is_the_published_one(factor, gain):
    np.testing.assert_allclose(rope.attention_factor(yarn(factor)), gain, rtol=1e-7)


def test_yarn_multiplies_the_logits_of_equal_positions_by_its_factor_squared():
    position_BT = jnp.zeros((1, 1), jnp.int32)
    x_BTNH = jnp.ones((1, 1, 1, H))
    tables = rope.cos_sin(yarn(8.0), H, position_BT, jnp.array([1]))
    turned_BTNH = rope.rotate(x_BTNH, *tables)
    gain = jnp.sum(turned_BTNH * turned_BTNH) / jnp.sum(x_BTNH * x_BTNH)
    np.testing.assert_allclose(gain, 1.459129, rtol=1e-6)


def test_mscale_pair_replaces_the_yarn_factor():
    config = RopeConfig(
        scaling="yarn", factor=8.0, original_context=4096, mscale=2.0, mscale_all_dim=1.0
    )
    want = (0.2 * np.log(8) + 1) / (0.1 * np.log(8) + 1)
    np.testing.assert_allclose(rope.attention_factor(config), want, rtol=1e-12)


def turned(config, x_BTNH, position_BT):
    length_B = position_BT.max(axis=1) + 1
    return rope.rotate(x_BTNH, *rope.cos_sin(config, H, position_BT, length_B))


def test_linear_scaling_is_the_unscaled_rotation_at_a_divided_position():
    x_BTNH = jax.random.normal(jax.random.key(0), (B, T, N, H))
    position_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    at_4t = turned(RopeConfig(scaling="linear", factor=4.0), x_BTNH, 4 * position_BT)
    at_t = turned(RopeConfig(), x_BTNH, position_BT)
    np.testing.assert_allclose(at_4t, at_t, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_scores_depend_only_on_the_distance(name):
    q_BTNH, k_BTNH = jax.random.normal(jax.random.key(1), (2, 1, 1, 1, H))

    def score(i, j):
        config = GOLDEN[name][0]
        q, k = turned(config, q_BTNH, jnp.array([[i]])), turned(config, k_BTNH, jnp.array([[j]]))
        return jnp.sum(q * k)

    np.testing.assert_allclose(score(9, 5), score(104, 100), rtol=1e-4)


def test_dynamic_is_unscaled_up_to_the_original_context():
    config = RopeConfig(scaling="dynamic", factor=4.0, original_context=T)
    x_BTNH = jax.random.normal(jax.random.key(0), (B, T, N, H))
    position_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    plain = turned(RopeConfig(), x_BTNH, position_BT)
    np.testing.assert_allclose(turned(config, x_BTNH, position_BT), plain, atol=1e-5)
    longer = rope.cos_sin(config, H, position_BT, jnp.full((B,), T + 1))
    assert jnp.max(jnp.abs(rope.rotate(x_BTNH, *longer) - plain)) > 1e-3


def test_positions_are_turned_in_float32():
    x_BTNH = jnp.ones((1, 2, 1, H), jnp.bfloat16)
    out = turned(RopeConfig(), x_BTNH, jnp.array([[256, 257]]))
    assert out.dtype == jnp.bfloat16
    assert jnp.any(out[0, 0] != out[0, 1])  # bfloat16 positions would round 257 to 256


@pytest.mark.torch
@pytest.mark.parametrize("scaling", ["none", "linear"])
def test_tables_match_transformers_over_a_whole_32k_context(scaling):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = {"rope_type": "default", "rope_theta": 1e4}
    if scaling == "linear":
        parameters |= {"rope_type": "linear", "factor": 8.0}
    theirs = LlamaRotaryEmbedding(
        transformers.LlamaConfig(hidden_size=128, num_attention_heads=1, rope_parameters=parameters)
    )
    position = np.arange(32768)[None]
    cos, sin = theirs(torch.zeros(1), torch.from_numpy(position))
    config = RopeConfig(scaling=scaling, factor=8.0 if scaling == "linear" else 1.0)
    ours = rope.cos_sin(config, 128, jnp.asarray(position), jnp.array([32768]))
    np.testing.assert_allclose(ours[0], cos.numpy()[..., :64], atol=1e-6)
    np.testing.assert_allclose(ours[1], sin.numpy()[..., :64], atol=1e-6)


def test_the_form_for_tpus_turns_heads_to_the_last_bit():
    """Also numbers that are not finite: they stay in their head."""
    x_BTNH = jax.random.normal(jax.random.key(0), (2, 50, 3, 16), jnp.bfloat16)
    position_BT = jnp.arange(100).reshape(2, 50) * 997
    tables = rope.cos_sin(RopeConfig(), 16, position_BT, position_BT[:, -1])
    found = rope.turned_by_product(x_BTNH, *tables)
    np.testing.assert_array_equal(found, rope.turned_by_halves(x_BTNH, *tables))
    broken = rope.turned_by_product(x_BTNH.at[0, 3, 1, 5].set(jnp.inf), *tables)
    assert np.isfinite(broken).sum() == x_BTNH.size - 16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_is_that_of_the_halves(dtype):
    x_BTNH = jax.random.normal(jax.random.key(0), (2, 50, 3, 16), dtype)
    position_BT = jnp.arange(100).reshape(2, 50)
    tables = rope.cos_sin(RopeConfig(), 16, position_BT, position_BT[:, -1])
    grads = []
    for form in (rope.rotate, rope.turned_by_halves):
        _, back = jax.vjp(lambda x_BTNH, form=form: form(x_BTNH, *tables), x_BTNH)
        grads.append(back(x_BTNH[::-1])[0].astype(jnp.float32))
    np.testing.assert_allclose(*grads, rtol=1e-6 if dtype == jnp.float32 else 1e-2, atol=1e-6)
