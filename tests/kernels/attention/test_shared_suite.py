"""Every implementation of attention against the equation in float32, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CASES,
    CHUNK,
    PACKED_41,
    TOLERANCE,
    Case,
    assert_close,
    inputs,
    segments,
    value_and_gradients,
)

from llama_jax.kernels.attention import chunked
from llama_jax.kernels.attention.api import attention
from llama_jax.kernels.attention.mask import Mask

IMPLEMENTATIONS = ("reference", "chunked")


def combinations():
    """Every case in float32; in bfloat16, which differs in the products only, a few of them."""
    for name in CASES:
        yield "chunked", name, jnp.float32
    for name in ("gqa", "head_96", "segments_and_window", "offset_array", "one_tile"):
        yield "chunked", name, jnp.bfloat16
    yield "reference", "segments_and_window", jnp.bfloat16


@pytest.mark.parametrize(("impl", "name", "dtype"), list(combinations()))
def test_equals_the_equation_in_float32(impl, name, dtype):
    case = CASES[name]
    arrays = inputs(case, dtype)
    exact = tuple(a.astype(jnp.float32) for a in arrays)
    got = value_and_gradients(impl, *arrays, case.mask)
    want = value_and_gradients("reference", *exact, case.mask)
    assert all(a.dtype == dtype for a in got)
    assert_close(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["gqa", "segments_and_window"])
def test_the_equation_agrees_with_jax_nn(name):
    case = CASES[name]
    q_BTNH, k_BSKH, v_BSKH, _ = inputs(case)
    mask_B1TS = case.mask.dense(case.B, case.T, case.S)[:, None]
    want = jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_B1TS)
    want = jnp.where(mask_B1TS[:, 0].any(-1)[..., None, None], want, 0.0)
    got = attention(q_BTNH, k_BSKH, v_BSKH, case.mask, "reference")
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_fully_masked_row_is_zero_and_gives_no_gradient(impl):
    case = CASES["segments_and_padding"]
    padding_BT = case.mask.q_segment_BT == 0
    out, dq, dk, dv = value_and_gradients(impl, *inputs(case), case.mask)
    assert padding_BT.any()
    for array in (out, dq, dk, dv):
        assert jnp.all(jnp.isfinite(array))
        assert jnp.all(array[padding_BT] == 0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("window", [None, 20])
def test_no_gradient_flows_to_keys_outside_the_mask(impl, window):
    q_BTNH, k_BSKH, v_BSKH, _ = inputs(Case())
    t = 33

    def row(k_BSKH, v_BSKH):
        out_BTNH = attention(q_BTNH, k_BSKH, v_BSKH, Mask(window=window), impl, CHUNK)
        return (out_BTNH[:, t] ** 2).sum()

    first = 0 if window is None else t - window + 1
    for grad_BSKH in jax.jit(jax.grad(row, (0, 1)))(k_BSKH, v_BSKH):
        assert jnp.all(jnp.any(grad_BSKH[:, first : t + 1] != 0, axis=(0, 2, 3)))
        assert jnp.all(grad_BSKH[:, t + 1 :] == 0)
        assert jnp.all(grad_BSKH[:, :first] == 0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_packed_row_equals_its_documents_alone(impl):
    q_BTNH, k_BSKH, v_BSKH, _ = inputs(Case(B=1))
    mask = Mask.packed(segments(48, (19, 29)))
    run = jax.jit(functools.partial(attention, impl=impl, chunk=CHUNK))
    packed = run(q_BTNH, k_BSKH, v_BSKH, mask)
    for part in (slice(0, 19), slice(19, 48)):
        alone = run(q_BTNH[:, part], k_BSKH[:, part], v_BSKH[:, part], Mask())
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-6)


def test_scores_far_from_zero_neither_overflow_nor_vanish():
    case = Case(Mask(window=20))
    q_BTNH, k_BSKH, v_BSKH, grad_BTNH = inputs(case)
    arrays = (q_BTNH * 100, k_BSKH * 10, v_BSKH, grad_BTNH)
    got = attention(*arrays[:3], case.mask, "chunked", CHUNK)
    want = attention(*arrays[:3], case.mask, "reference")
    np.testing.assert_allclose(got, want, atol=1e-4)  # measured 6.2e-5: scores reach 3.6e3


@pytest.mark.parametrize(
    ("mask", "tiles"),
    [
        (Mask(), 10),  # 1 + 2 + 3 + 4 of 16
        (Mask(window=16), 7),  # the diagonal and the tile before it
        (Mask(causal=False), 16),
        (Mask(q_offset=jnp.int32(0)), 16),  # unknown while tracing: nothing can be left out
    ],
)
def test_tiles_that_nobody_sees_are_left_out(mask, tiles):
    assert len(chunked.tiling(16, 64, 64, mask).starts) == tiles


def test_one_query_meets_all_its_keys_in_one_tile():
    assert len(chunked.tiling(128, 1, 4096, Mask(q_offset=jnp.int32(4000))).starts) == 1


def backward_memory(impl: str, T: int) -> int:
    q = jax.ShapeDtypeStruct((1, T, 2, 16), jnp.float32)

    def loss(q, k, v):
        return attention(q, k, v, Mask(), impl, 64).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, q, q).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_not_its_square():
    assert backward_memory("reference", 2048) > 3.5 * backward_memory("reference", 1024)
    assert backward_memory("chunked", 2048) < 2.2 * backward_memory("chunked", 1024)
    assert backward_memory("chunked", 2048) < backward_memory("reference", 2048) / 10


def test_a_remat_policy_that_keeps_the_named_outputs_skips_the_forward_pass():
    q_BTNH, k_BSKH, v_BSKH, _ = inputs(Case())

    def loops(*names):
        policy = jax.checkpoint_policies.save_only_these_names(*names)

        @functools.partial(jax.checkpoint, policy=policy)
        def layer(q, k, v):
            return jnp.sin(attention(jnp.sin(q), k, v, Mask(), "chunked", CHUNK)).sum()

        grad = jax.jit(jax.value_and_grad(layer))
        return grad.lower(q_BTNH, k_BSKH, v_BSKH).as_text().count("stablehlo.while")

    assert loops("attention_out", "attention_lse") < loops()


def test_runs_in_scan_with_checkpoint_and_a_mask_as_argument():
    case = CASES["offset_array_window_segments"]
    q_BTNH, k_BSKH, v_BSKH, _ = inputs(case)

    def loss(impl, q_BTNH, mask):
        @jax.checkpoint
        def layer(x_BTNH, mask):
            return x_BTNH + attention(x_BTNH, k_BSKH, v_BSKH, mask, impl, CHUNK)

        return jax.lax.scan(lambda x, _: (layer(x, mask), None), q_BTNH, length=2)[0].sum()

    grad = jax.jit(jax.grad(loss, 1), static_argnums=0)
    got, want = grad("chunked", q_BTNH, case.mask), grad("reference", q_BTNH, case.mask)
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": (2, 8, 3, 16)}, "3 query heads cannot share 2 key heads"),
        ({"v": (2, 9, 2, 16)}, r"k is \(2, 8, 2, 16\) but v is \(2, 9, 2, 16\)"),
        ({"q": (2, 8, 4, 32)}, "they must agree in batch and head size"),
        ({"q": (8, 4, 16)}, r"q is \(8, 4, 16\)"),
        ({"impl": "flash"}, "impl is 'flash'; it must be one of"),
        ({"chunk": 0}, "chunk is 0"),
        ({"mask": Mask.packed(PACKED_41)}, r"mask segments are \(2, 41\)"),
        ({"dtype": jnp.bfloat16}, "q, k, v are bfloat16, float32, float32"),
    ],
)
def test_says_what_is_wrong(changes, message):
    said = {"q": (2, 8, 4, 16), "k": (2, 8, 2, 16), "v": (2, 8, 2, 16)} | changes
    q_BTNH = jnp.zeros(said["q"], said.get("dtype", jnp.float32))
    k_BSKH, v_BSKH = jnp.zeros(said["k"]), jnp.zeros(said["v"])
    mask, impl = said.get("mask", Mask()), said.get("impl", "chunked")
    with pytest.raises(ValueError, match=message):
        attention(q_BTNH, k_BSKH, v_BSKH, mask, impl, said.get("chunk", 16))
