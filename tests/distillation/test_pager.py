"""The pager goes, whole; what looks like one and is not stays."""

import pytest

from llama_jax.distillation import pager


@pytest.mark.parametrize(
    ("turn", "left"),
    [
        ("2 / 2Write a poem", "Write a poem"),
        ("3 / 3-Write a poem", "Write a poem"),
        ("1 / 1\nWrite", "\nWrite"),
        ("1 / 3Write a poem", "Write a poem"),
        ("2 / 11-Write", "Write"),
        ("12 / 12Write", "Write"),
        # These are a person's.
        ("1 / 2 cup of flour", "1 / 2 cup of flour"),
        ("1 / 10", "1 / 10"),
        ("1 / 10 of it", "1 / 10 of it"),
        ("1 / 1.5 is", "1 / 1.5 is"),
        ("1 / 100Write", "1 / 100Write"),
        ("3 / 2Write", "3 / 2Write"),
        ("20 / 20vision", "20 / 20vision"),
        ("1 / 1", "1 / 1"),
        ("Write 2 / 2", "Write 2 / 2"),
        ("1/1Write", "1/1Write"),
    ],
)
def test_what_is_left_of_a_turn(turn, left):
    assert pager.strip(turn) == left
