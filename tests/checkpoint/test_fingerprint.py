"""The fingerprint depends on every bit and its place, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.checkpoint.fingerprint import fingerprints

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool", "complex64")
SHAPES = ((), (0,), (3,), (8, 12), (2, 8, 5))


def example(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(len(shape)).integers(0, 99, shape)
    return np.asarray(jnp.asarray(values).astype(dtype))


def one(array) -> str:
    return fingerprints({"x": jnp.asarray(array)})["x"]


def flipped(array: np.ndarray, bit: int) -> np.ndarray:
    data = bytearray(array.tobytes())
    data[bit // 8] ^= 1 << bit % 8
    return np.frombuffer(bytes(data), array.dtype).reshape(array.shape)


@pytest.mark.parametrize("mesh_shape", [(8, 1), (1, 8), (2, 4), (4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_every_mesh_and_sharding_gives_the_same_fingerprint(mesh_shape, dtype):
    array = example(dtype, (8, 16))
    mesh = Mesh(np.array(jax.devices()).reshape(mesh_shape), ("x", "y"))
    expected = one(array)
    for spec in [("x", "y"), ("y", "x"), (None, "x"), (("x", "y"), None), (None, None)]:
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert one(placed) == expected, spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "int8"])
def test_any_flipped_bit_changes_both_lanes(dtype):
    array = example(dtype, (2, 3))
    expected = one(array)
    for bit in range(array.nbytes * 8):
        found = one(flipped(array, bit))
        assert found[:8] != expected[:8], bit
        assert found[8:] != expected[8:], bit


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 1, 4)])
def test_exchanging_any_two_elements_changes_the_fingerprint(shape):
    size = int(np.prod(shape))
    array = np.arange(size, dtype=np.float32)
    expected = one(array.reshape(shape))
    for i in range(size):
        for j in range(i):
            other = array.copy()
            other[[i, j]] = other[[j, i]]
            assert one(other.reshape(shape)) != expected, (i, j)


def test_signed_zeros_and_nans_differ_by_their_bits():
    zeros = np.zeros(2, np.float32)
    nan = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert one(zeros) != one(-zeros)
    assert one(nan[:1]) != one(nan[1:])
    assert one(nan) == one(nan.copy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_dtype_and_shape_has_a_fingerprint_of_16_digits(dtype, shape):
    found = one(example(dtype, shape))
    assert len(found) == 16
    assert int(found, 16) == (0 if 0 in shape else int(found, 16))


def test_the_definition_in_plain_python():
    def mix(h):
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    array = np.arange(6, dtype=np.uint32).reshape(2, 3) * 7
    lanes = []
    for seed in (0x2545F491, 0x9E3779B1):
        total = 0
        for i in range(2):
            row = mix(((seed ^ i) + 0x9E3779B9) % 2**32)
            for j in range(3):
                total += mix(int(array[i, j]) ^ mix(((row ^ j) + 0x9E3779BA) % 2**32))
        lanes.append(f"{total % 2**32:08x}")
    assert one(array) == "".join(lanes)


def test_it_runs_where_implicit_transfers_are_forbidden():
    arrays = {"a": jnp.ones((4, 4)), "b": jnp.int32(3)}
    expected = fingerprints(arrays)
    with jax.transfer_guard("disallow"):
        assert fingerprints(arrays) == expected
