import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.model.product import product

B, T, I, O = 2, 5, 7, 3


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_product_and_its_gradients_equal_jax_own_in_float32(dtype, rtol):
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTI, w_IO, pull_BTO = (
        jax.random.normal(key, shape).astype(dtype)
        for key, shape in zip(keys, ((B, T, I), (I, O), (B, T, O)), strict=True)
    )

    def pulled(function):
        return lambda x, w: jnp.sum(function(x, w) * pull_BTO.astype(x.dtype))

    wide = (x_BTI.astype(jnp.float32), w_IO.astype(jnp.float32))
    want = jax.grad(pulled(jnp.matmul), argnums=(0, 1))(*wide)
    got = jax.grad(pulled(product), argnums=(0, 1))(x_BTI, w_IO)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == jnp.dtype(dtype)
        scale = jnp.abs(theirs).max()
        np.testing.assert_allclose(ours.astype(jnp.float32) / scale, theirs / scale, atol=rtol)
    y_BTO = product(x_BTI, w_IO).astype(jnp.float32)
    np.testing.assert_allclose(y_BTO, jnp.matmul(*wide), rtol=rtol, atol=rtol)
