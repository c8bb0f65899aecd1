import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.kernels.attention import mask as mask_module
from llama_jax.kernels.attention.mask import Mask

# The same literal as in the docstring of mask.py.
DRAWING = """\
x . . . . . . .
x x . . . . . .
x x x . . . . .
. x x x . . . .
. . . . x . . .
. . . . x x . .
. . . . x x x .
. . . . . . . ."""
SEGMENT_BT = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]])


def test_draws_itself():
    assert Mask.packed(SEGMENT_BT, window=3).draw(8, 8) == DRAWING


def test_the_docstring_shows_the_same_drawing():
    lines = [line.strip() for line in mask_module.__doc__.splitlines()]
    assert DRAWING in "\n".join(lines)


def test_a_query_sees_window_keys_itself_included():
    seen_S = Mask(window=4).dense(1, 9, 9)[0].sum(-1)
    np.testing.assert_array_equal(seen_S, [1, 2, 3, 4, 4, 4, 4, 4, 4])


def test_an_offset_takes_later_rows_of_the_same_matrix():
    whole_BTS = Mask(window=3).dense(1, 9, 9)
    np.testing.assert_array_equal(Mask(window=3, q_offset=5).dense(1, 4, 9), whole_BTS[:, 5:])


def test_padding_neither_sees_nor_is_seen():
    seen_TS = Mask(causal=False, q_segment_BT=SEGMENT_BT, k_segment_BS=SEGMENT_BT).dense(1, 8, 8)[0]
    assert not seen_TS[7].any() and not seen_TS[:, 7].any()
    assert seen_TS[0, 3] and not seen_TS[0, 4]


@pytest.mark.parametrize(
    "mask", [Mask(), Mask(window=3), Mask.packed(SEGMENT_BT), Mask(causal=False)]
)
def test_a_block_is_a_part_of_the_matrix(mask):
    whole_BTS = mask.dense(1, 8, 8)
    np.testing.assert_array_equal(mask.block(2, 3, 4, 5), whole_BTS[:, 2:6, 3:8])


@pytest.mark.parametrize(
    "mask", [Mask(), Mask(window=2), Mask(window=3), Mask(window=2, q_offset=3)]
)
def test_a_hidden_block_is_exactly_an_empty_one(mask):
    for q_start in range(0, 8, 2):
        for k_start in range(0, 8, 2):
            empty = not mask.block(q_start, k_start, 2, 2).any()
            assert mask.hides(q_start, k_start, 2, 2) == empty, (q_start, k_start)


def test_an_int_offset_stays_static_under_jit_and_an_array_does_not():
    seen = []
    jax.jit(lambda mask: seen.append(mask.q_offset))(Mask(q_offset=5))
    jax.jit(lambda mask: seen.append(mask.q_offset))(Mask(q_offset=jnp.int32(5)))
    assert seen[0] == 5 and isinstance(seen[1], jax.core.Tracer)


def test_flattening_and_back_gives_the_same_mask():
    mask = Mask(window=3, q_offset=jnp.int32(2), q_segment_BT=SEGMENT_BT, k_segment_BS=SEGMENT_BT)
    leaves, structure = jax.tree.flatten(mask)
    again = jax.tree.unflatten(structure, leaves)
    assert len(leaves) == 3
    np.testing.assert_array_equal(again.dense(1, 8, 8), mask.dense(1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"window": 4, "causal": False}, "window is 4 but causal is False"),
        ({"q_segment_BT": SEGMENT_BT}, "One of q_segment_BT and k_segment_BS is None"),
    ],
)
def test_says_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        Mask(**settings)
