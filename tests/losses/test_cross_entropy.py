import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.losses.cross_entropy import chunked_cross_entropy, chunked_token_loss

B, T, D, V = 2, 21, 16, 50


def dense(x_BTD, head_DV, target_BT, weight_BT, z_loss):
    """The definition, with all logits at once."""
    logit_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV, preferred_element_type=jnp.float32)
    log_z_BT = jax.nn.logsumexp(logit_BTV, axis=-1)
    target_BT1 = target_BT[..., None]
    loss_BT = log_z_BT - jnp.take_along_axis(logit_BTV, target_BT1, axis=-1)[..., 0]
    sums = {
        "weight": weight_BT.sum(),
        "correct": (weight_BT * (logit_BTV.argmax(-1) == target_BT).astype(jnp.float32)).sum(),
        "z_loss": (z_loss * weight_BT * log_z_BT**2).sum(),
    }
    return (weight_BT * loss_BT).sum() + sums["z_loss"], sums


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x_BTD = jax.random.normal(keys[0], (B, T, D), dtype)
    head_DV = jax.random.normal(keys[1], (D, V), dtype)
    # Half the targets are the model's own guess, so that "correct" is not trivially 0.
    guess_BT = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV).argmax(-1)
    target_BT = jax.random.randint(keys[2], (B, T), 0, V)
    target_BT = jnp.where(jnp.arange(T)[None] % 2 == 0, guess_BT.astype(jnp.int32), target_BT)
    weight_BT = jnp.where(jnp.arange(T)[None] % 5 == 0, 0.0, jax.random.uniform(keys[3], (B, T)))
    return x_BTD, head_DV, target_BT, weight_BT


def chunked_fn(chunk, z_loss):
    return functools.partial(chunked_cross_entropy, chunk=chunk, z_loss=z_loss)


# One token per row at a time, uneven chunks, one chunk of everything.
@pytest.mark.parametrize("chunk", [1, 8, 10_000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_value_sums_and_gradients_equal_the_dense_ones(chunk, z_loss):
    x_BTD, head_DV, target_BT, weight_BT = inputs()
    both = []
    for fn in (chunked_fn(chunk, z_loss), functools.partial(dense, z_loss=z_loss)):
        grad = jax.jit(jax.value_and_grad(fn, (0, 1), has_aux=True))
        both.append(grad(x_BTD, head_DV, target_BT, weight_BT))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *both)
    assert both[0][0][1]["correct"] > 0


def test_the_value_without_gradients_is_the_value_with_them():
    x_BTD, head_DV, target_BT, weight_BT = inputs()
    fn = chunked_fn(8, 1e-2)
    alone = jax.jit(fn)(x_BTD, head_DV, target_BT, weight_BT)
    beside = jax.jit(jax.value_and_grad(fn, has_aux=True))(x_BTD, head_DV, target_BT, weight_BT)[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), alone, beside)


def test_gradients_are_scaled_by_what_comes_after_the_loss():
    x_BTD, head_DV, target_BT, weight_BT = inputs()

    def mean(fn, x_BTD, head_DV):
        loss, sums = fn(x_BTD, head_DV, target_BT, weight_BT)
        return loss / sums["weight"]

    plain = functools.partial(dense, z_loss=0.0)
    got, want = (
        jax.jit(jax.grad(functools.partial(mean, fn), (0, 1)))(x_BTD, head_DV)
        for fn in (chunked_fn(8, 0.0), plain)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), got, want)


def test_a_token_of_weight_zero_changes_nothing():
    x_BTD, head_DV, target_BT, weight_BT = inputs()
    grad = jax.jit(jax.value_and_grad(chunked_fn(8, 1e-2), (0, 1), has_aux=True))
    changed_BT = jnp.where(weight_BT == 0, (target_BT + 7) % V, target_BT)
    changed_BTD = jnp.where((weight_BT == 0)[..., None], 3.0, x_BTD)
    one = grad(x_BTD, head_DV, target_BT, weight_BT)
    two = grad(changed_BTD, head_DV, changed_BT, weight_BT)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert jnp.all(one[1][0][weight_BT == 0] == 0)


def test_a_float32_head_keeps_a_float32_gradient_beside_bfloat16_activations():
    x_BTD, _, target_BT, weight_BT = inputs(jnp.bfloat16)
    head_DV = inputs()[1]
    (dx, dhead), want = (
        jax.jit(jax.grad(lambda x, h, fn=fn: fn(x, h, target_BT, weight_BT)[0], (0, 1)))(x, head_DV)
        for fn, x in (
            (chunked_fn(8, 0.0), x_BTD),
            (functools.partial(dense, z_loss=0.0), x_BTD.astype(jnp.float32)),
        )
    )
    assert (dx.dtype, dhead.dtype) == (jnp.bfloat16, jnp.float32)
    for got, exact in zip((dx, dhead), want, strict=True):
        scale = jnp.abs(exact).max()
        np.testing.assert_allclose(got.astype(jnp.float32) / scale, exact / scale, atol=2e-2)


@pytest.mark.parametrize("chunk", [1, 8, 10_000])
def test_token_losses_are_the_terms_of_the_sum(chunk):
    x_BTD, head_DV, target_BT, _ = inputs()
    loss_BT = jax.jit(chunked_token_loss, static_argnames="chunk")(
        x_BTD, head_DV, target_BT, chunk=chunk
    )
    assert loss_BT.shape == (B, T)
    for b, t in ((0, 0), (1, 4), (0, T - 1)):
        one_BT = jnp.zeros((B, T)).at[b, t].set(1.0)
        want, _ = jax.jit(dense)(x_BTD, head_DV, target_BT, one_BT, 0.0)
        np.testing.assert_allclose(loss_BT[b, t], want, atol=1e-5)


def memory(fn, tokens: int, differentiate: bool = True) -> int:
    """Bytes of temporaries at width 64 and a vocabulary of 4096; results are not temporaries."""
    x = jax.ShapeDtypeStruct((2, tokens // 2, 64), jnp.float32)
    head = jax.ShapeDtypeStruct((64, 4096), jnp.float32)
    target = jax.ShapeDtypeStruct((2, tokens // 2), jnp.int32)
    weight = jax.ShapeDtypeStruct((2, tokens // 2), jnp.float32)
    value = lambda *a: fn(*a)[0]  # noqa: E731
    program = jax.value_and_grad(value, (0, 1)) if differentiate else value
    compiled = jax.jit(program).lower(x, head, target, weight).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_logits_never_exist_all_at_once():
    fn = chunked_fn(128, 1e-4)
    assert memory(fn, 8192) < memory(functools.partial(dense, z_loss=1e-4), 8192) / 10
    gradient_of_x = 4 * 64 * 8192
    assert memory(fn, 16384) < memory(fn, 8192) + 2 * gradient_of_x


def test_the_value_alone_makes_no_gradient():
    head_bytes = 4 * 64 * 4096
    logits_bytes = 4 * 128 * 4096
    assert memory(chunked_fn(128, 0.0), 8192, differentiate=False) < logits_bytes + head_bytes


def test_says_what_is_wrong():
    x_BTD, head_DV, target_BT, weight_BT = inputs()
    with pytest.raises(ValueError, match=r"x is \(2, 21, 16\), head \(50, 16\)"):
        chunked_cross_entropy(x_BTD, head_DV.T, target_BT, weight_BT, chunk=8, z_loss=0.0)
    with pytest.raises(ValueError, match="chunk is 0"):
        chunked_token_loss(x_BTD, head_DV, target_BT, chunk=0)


@pytest.mark.parametrize("chunk", [8, 10_000])
def test_a_frozen_head_changes_nothing_but_has_no_gradient(chunk):
    x_BTD, head_DV, target_BT, weight_BT = inputs()

    def loss(x_BTD, head_DV, frozen):
        found, _ = chunked_cross_entropy(
            x_BTD, head_DV, target_BT, weight_BT, chunk=chunk, z_loss=1e-2, frozen_head=frozen
        )
        return 3 * found

    want = jax.value_and_grad(loss)(x_BTD, head_DV, False)
    got = jax.value_and_grad(loss)(x_BTD, head_DV, True)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    text = str(jax.make_jaxpr(jax.grad(lambda x: loss(x, head_DV, True)))(x_BTD))
    plain = str(jax.make_jaxpr(jax.grad(lambda x: loss(x, head_DV, False)))(x_BTD))
    assert f"f32[{D},{V}] = dot_general" in plain
    assert f"f32[{D},{V}] = dot_general" not in text
