"""The gradients of RMSNorm in the form that each platform computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.model import norm

EPS = 1e-5
FORMS = {"in turn": norm.gradients_in_turn, "at once": norm.gradients_at_once}


def plain(x_BTD, scale_D):
    mean_BT1 = jnp.mean(x_BTD * x_BTD, axis=-1, keepdims=True)
    return x_BTD / jnp.sqrt(mean_BT1 + EPS) * scale_D[None, None]


@functools.cache
def arrays(dtype, T: int):
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTD, dy_BTD = (3 * jax.random.normal(key, (2, T, 16), dtype) for key in keys[:2])
    return x_BTD, 1 + jax.random.normal(keys[2], (16,), dtype), dy_BTD


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 7, 128])  # 128 tokens are two chunks.
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_gradients_equal_jax_own_in_float32(form, T, dtype, rtol):
    x_BTD, scale_D, dy_BTD = arrays(dtype, T)
    _, back = jax.vjp(plain, x_BTD.astype(jnp.float32), scale_D.astype(jnp.float32))
    found = FORMS[form](EPS, False, x_BTD, scale_D, dy_BTD)
    for mine, theirs in zip(found, back(dy_BTD.astype(jnp.float32)), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine.astype(jnp.float32), theirs, rtol, rtol * scale)


@pytest.mark.parametrize("T", [1, 7, 96, 128])
def test_a_sum_over_chunks_is_the_sum_over_tokens(T):
    x_BTD, _, _ = arrays(jnp.float32, T)
    found_D = norm.by_chunk(x_BTD)
    np.testing.assert_allclose(found_D, x_BTD.sum((0, 1)), 1e-5, 1e-5 * np.abs(x_BTD).max())


def test_a_frozen_scale_has_no_gradient_and_x_has_the_same():
    x_BTD, scale_D, dy_BTD = arrays(jnp.float32, 7)
    for form in FORMS.values():
        dx_BTD, dscale_D = form(EPS, True, x_BTD, scale_D, dy_BTD)
        assert dscale_D is None
        np.testing.assert_array_equal(dx_BTD, form(EPS, False, x_BTD, scale_D, dy_BTD)[0])
