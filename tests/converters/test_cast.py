"""Weights change dtype exactly, by rounding, or not at all."""

import ml_dtypes
import numpy as np
import pytest

from llama_jax.converters.cast import cast


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_value_survives_float32(dtype):
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    every = np.arange(2**16, dtype=np.uint16).view(kind)
    with np.errstate(invalid="ignore"):
        every = every[~np.isnan(every)]
    back = cast(cast(every, "float32", "x"), dtype, "x")
    np.testing.assert_array_equal(back.view(np.uint16), every.view(np.uint16))


def test_the_same_dtype_is_the_same_array():
    array = np.zeros(3, np.float32)
    assert cast(array, "float32", "x") is array


def test_bfloat16_rounds_to_the_nearest_even():
    halfway = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    got = cast(halfway, "bfloat16", "x").astype(np.float32)
    np.testing.assert_array_equal(got, np.array([1.0, 1 + 2**-6], np.float32))


@pytest.mark.parametrize("dtype, value", [("float16", 1e5), ("bfloat16", 3.4e38)])
def test_a_value_that_would_become_infinite_is_refused(dtype, value):
    with pytest.raises(ValueError, match=f"x.weight holds values beyond .* the largest {dtype}"):
        cast(np.array([value], np.float32), dtype, "x.weight")


def test_an_infinity_stays_one():
    assert np.isinf(cast(np.array([np.inf], np.float32), "float16", "x")[0])
