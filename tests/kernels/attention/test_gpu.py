"""The Hopper kernels in JAX's simulator of a GPU: the shared cases, races, what is visited."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CASES,
    CHUNK,
    STRAYS,
    TOLERANCE,
    Case,
    assert_close,
    inputs,
    merged,
    slim,
    value_and_gradients,
    with_nan,
)

from llama_jax.config.model import ComputeConfig
from llama_jax.kernels.attention import api, gpu_block, gpu_deal, gpu_schedule, gpu_tiles, schedule
from llama_jax.kernels.attention.mask import Mask

IMPLEMENTATIONS = ("gpu_interpret", "gpu_fused_interpret")

# Five tiles of keys and two or three stages; whole tiles and tiles on the edge; two heads.
LONG_BT = jnp.repeat(jnp.array([[1, 2, 2, 2, 2]], jnp.int32), 128, axis=1)
LONG = Case(Mask.packed(LONG_BT), B=1, T=640, S=640, N=2, K=1, H=128)

# Left out: others that come to the same lists of tiles and lines of numbers.
FUSED_CASES = (
    *("gqa", "one_key_head", "head_96", "not_causal_not_a_multiple", "one_token", "all_padding"),
    *("window_wider_than_a_tile", "segments_and_padding", "segments_and_window"),
    *("segments_not_causal", "more_queries_than_keys", "offset_array_window_segments"),
    "before_every_key",
)


@pytest.fixture(autouse=True)
def no_races(capsys):
    """Fails a test whose kernels raced: the simulator prints what it sees.

    That of jax 0.11.2 reports races in any ring that is used again, of two warpgroups that free it;
    results are right there too.
    """
    yield
    if jax.version.__version_info__ < (0, 11):
        assert "RACE" not in capsys.readouterr().out


def check(case: Case, dtype=jnp.bfloat16, impl="gpu_interpret"):
    arrays = inputs(case, dtype)
    got = value_and_gradients(impl, *arrays, case.mask)
    exact = (a.astype(jnp.float32) for a in arrays)
    want = value_and_gradients("reference", *exact, case.mask)
    assert all(a.dtype == dtype for a in got)
    assert_close(got, want, TOLERANCE[jnp.bfloat16])


@pytest.mark.parametrize("name", CASES)
def test_equals_the_equation(name):
    check(slim(CASES[name]))


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(impl, shape, q_BTNH, k_BSKH, v_BSKH, grad_BTNH, mask):
    """Returns dq, dk, dv in float32, by the output and log-sum-exp of "chunked"."""
    arrays, parts = (q_BTNH, k_BSKH, v_BSKH), api.parts(impl, CHUNK, shape)
    out_BTNH, log_sum_BKGT = api.parts("chunked", CHUNK, shape).forward(*arrays, mask)
    return parts.backward(*arrays, parts.prepare(mask, shape), out_BTNH, log_sum_BKGT, grad_BTNH)


@pytest.mark.parametrize("name", FUSED_CASES)
def test_the_fused_backward_pass_equals_the_equation(name):
    case = slim(CASES[name])
    arrays = inputs(case, jnp.bfloat16)
    got = gradients("gpu_fused_interpret", api.shape_of(*arrays[:2]), *arrays, case.mask)
    exact = (a.astype(jnp.float32) for a in arrays)
    out, *want = value_and_gradients("reference", *exact, case.mask)
    assert_close((out, *got), (out, *want), TOLERANCE[jnp.bfloat16])


def test_both_backward_passes_give_the_same_dk_and_dv():
    """To the last bit; dq is summed in another order."""
    arrays = inputs(LONG, jnp.bfloat16)
    shape = api.shape_of(*arrays[:2])
    one, other = (gradients(impl, shape, *arrays, LONG.mask) for impl in IMPLEMENTATIONS)
    jax.tree.map(np.testing.assert_array_equal, one[1:], other[1:])
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_rows_of_the_batch_keep_apart(impl):
    check(dataclasses.replace(CASES["segments_and_window"], N=1, K=1), impl=impl)


def test_a_ring_that_goes_round():
    check(dataclasses.replace(LONG, N=1), jnp.float16)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_parts_of_the_keys_merge_to_the_whole(impl):
    got, want = merged(impl, jnp.bfloat16)
    assert all(a.dtype == jnp.float32 for a in got)
    assert_close(got, want, 1e-2)


@pytest.mark.parametrize(
    ("impl", "name"),
    [*((IMPLEMENTATIONS[0], name) for name in STRAYS), (IMPLEMENTATIONS[1], STRAYS[0])],
)
def test_nan_where_nobody_looks_does_not_leak(impl, name):
    case = slim(CASES[name])
    clean, dirty, (sees_BT, is_seen_BS, *_) = with_nan(case, jnp.bfloat16)
    run = functools.partial(value_and_gradients, impl)
    got, want = (run(*given, case.mask) for given in (dirty, clean))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    for x, kept in zip(got, (sees_BT, sees_BT, is_seen_BS, is_seen_BS), strict=True):
        assert jnp.all(x[~kept] == 0)


@pytest.mark.parametrize("name", CASES)
def test_lists_hold_every_tile_that_is_seen_and_know_which_need_no_mask(name):
    case = CASES[name]
    pad = -case.T % 8, -case.S % 8
    T, S = case.T + pad[0], case.S + pad[1]
    lines = schedule.lines(case.mask, case.T, case.S, T, S)
    dense_BTS = np.zeros((case.B, T, S), bool)
    dense_BTS[:, : case.T, : case.S] = case.mask.dense(case.B, case.T, case.S)
    tiles_BIJtile = dense_BTS.reshape(case.B, T // 8, 8, S // 8, 8).swapaxes(2, 3)
    seen_BIJ, whole_BIJ = tiles_BIJtile.any((-1, -2)), tiles_BIJtile.all((-1, -2))
    found = gpu_schedule.visits(*schedule.seen_tiles(lines, 8, 8, case.B))
    for row, i in np.ndindex(seen_BIJ.shape[:2]):
        whole, count = found.whole_BO[row, i], found.count_BO[row, i]
        listed = np.asarray(found.tile_BOV[row, i, :count])
        assert set(np.flatnonzero(seen_BIJ[row, i])) == set(listed)
        assert set(listed[:whole]) == set(np.flatnonzero(whole_BIJ[row, i]))
        assert len(set(listed)) == count


def test_blocks_with_most_to_do_start_first():
    found = gpu_schedule.make(Mask(), gpu_tiles.setup(2, 1, 128), 2, 1024, 1024).forward
    assert np.all(np.diff(found.count_BO.reshape(-1)[found.block_E]) <= 0)
    assert sorted(found.block_E.tolist()) == list(range(16))


@pytest.mark.parametrize(("T", "N", "K"), [(4096, 32, 32), (4096, 8, 2), (16384, 4, 4)])
def test_items_are_dealt_evenly_and_each_once(T, N, K):
    """Of causal rows, which are the least even: to 132 blocks, of which the busiest counts."""
    plan = gpu_deal.make(Mask(), gpu_tiles.setup(N, K, 128), 1, T, T).forward
    item_WP, tiles = np.asarray(plan.item_WP), T // 128
    assert sorted(item_WP[item_WP >= 0]) == list(range(tiles * N))
    assert np.all(item_WP[:-1] >= 0)
    together = gpu_deal.forward_heads(gpu_tiles.setup(N, K, 128), T)
    entry_WP = item_WP % (tiles * together) // together
    work_WP = np.where(item_WP < 0, 0, plan.count_BO[0][plan.block_E[entry_WP]])
    work_P = work_WP.sum(axis=0)
    assert work_P.max() < 1.03 * work_P.mean()


@pytest.mark.parametrize("blocks", [1, 3, 7, 8])
def test_no_block_is_without_an_item(blocks):
    """Of seven items, to fewer blocks or more."""
    item_WP = np.asarray(gpu_deal.deal(jnp.array([5, 4, 4, 3, 2, 2, 0]), blocks))
    assert sorted(item_WP[item_WP >= 0]) == list(range(7))
    assert item_WP.shape == (-(-7 // min(blocks, 7)), min(blocks, 7))


def test_heads_that_run_together_fit_the_cache_and_divide_all():
    assert gpu_block.heads_together(32, 4 * 32768 * 128) == 1
    assert gpu_block.heads_together(6, gpu_block.TOGETHER // 4) == 3
    assert gpu_block.heads_together(5, 1) == 5


@pytest.mark.parametrize("H", gpu_tiles.HEAD_SIZES)
def test_tiles_fit_the_shared_memory(H):
    used = gpu_tiles.bytes_used(gpu_tiles.setup(2, 1, H), H)
    assert max(used.values()) <= gpu_tiles.SHARED_MEMORY - 1024


def test_says_what_it_cannot_take():
    q, kind = jnp.zeros((1, 64, 2, 64)), "NVIDIA H100 80GB HBM3"
    for impl in ("gpu", "gpu_fused"):
        with pytest.raises(ValueError, match=f"'{impl}' takes bfloat16 or float16 but q, k, v are"):
            api.attention(q, q, q, Mask(), impl, device_kind=kind)
    half, large = q.astype(jnp.bfloat16), jnp.zeros((1, 64, 2, 256), jnp.bfloat16)
    with pytest.raises(ValueError, match="head_dim is 256; the GPU attention kernel takes at most"):
        api.attention(large, large, large, Mask(), "gpu", device_kind=kind)
    with pytest.raises(ValueError, match=r"is for Hopper GPUs .*, but this is 'NVIDIA A100"):
        api.attention(half, half, half, Mask(), "gpu", device_kind="NVIDIA A100-SXM4-80GB")
    for impl in ("gpu", "gpu_fused"):
        with pytest.raises(ValueError, match=f"is '{impl}', which has tiles of its own"):
            ComputeConfig(attention=impl, attention_chunk=64)
