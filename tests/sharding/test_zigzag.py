import numpy as np
import pytest

from llama_jax.sharding import zigzag


def test_the_drawing():
    assert zigzag.order(8, 2).tolist() == [0, 1, 6, 7, 2, 3, 4, 5]


def test_one_part_keeps_the_order():
    assert zigzag.order(7, 1).tolist() == list(range(7))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_every_device_sees_the_same_number_of_keys(parts):
    order = zigzag.order(64, parts)
    assert sorted(order) == list(range(64))
    seen = (order + 1).reshape(parts, -1).sum(axis=1)  # Query t sees t + 1 keys.
    assert len(set(seen)) == 1


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_every_step_of_a_ring_has_the_same_work_on_every_device(parts):
    chunks = zigzag.order(2 * parts, parts).reshape(parts, 2)
    for step in range(parts):
        keys = np.roll(chunks, step, axis=0)
        work = (np.sign(chunks[:, :, None] - keys[:, None, :]) + 1).sum(axis=(1, 2))
        assert len(set(work)) == 1, (step, work)


def test_a_row_that_does_not_divide_says_what_would():
    with pytest.raises(ValueError, match=r"12 tokens cannot be split over 4 .* a multiple of 8"):
        zigzag.order(12, 4)
