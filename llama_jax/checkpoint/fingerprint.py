"""Content of arrays as 64 bits, the same for every device count and every sharding.

With u the bits of element i and h(i) a hash of its global index, a lane is

    sum over i of mix(u_i xor h(i))   modulo 2^32

mix is a bijection (core/mixing.py), so changing one element always changes the sum. Integer
addition is associative, so any order of adding, hence any sharding, gives the same
sum. Two lanes differ in the start of h.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from llama_jax.core.mixing import mix

LANES = (0x2545F491, 0x9E3779B1)
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def fingerprints(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """Returns 16 hexadecimal digits per array; one copy from device to host for all of them."""
    lanes = {}
    for name, array in arrays.items():
        # One after the other: programs that do not depend on each other run at once, and where
        # each sends messages between processes (Gloo) they then wait for each other for ever.
        lanes[name] = jax.block_until_ready(_lanes(array))
    fetched = jax.device_get(lanes)
    return {name: "".join(f"{int(lane):08x}" for lane in pair) for name, pair in fetched.items()}


@jax.jit
def _lanes(x: jax.Array) -> tuple[jax.Array, ...]:
    if x.ndim < 3:
        return _sums(_bits(x), LANES, 0)
    if x.dtype == jnp.bfloat16:  # XLA:CPU would slice it as float32, all of it at once.
        x = _bits(x)

    def add(layer, sums):
        starts = tuple(_hash_index(jnp.uint32(seed), layer, 0) for seed in LANES)
        return tuple(map(jnp.add, sums, _sums(_bits(x[layer]), starts, 1)))

    # One layer after the other: at once, XLA:CPU holds a 32-bit copy of the whole array per lane.
    return jax.lax.fori_loop(0, x.shape[0], add, (jnp.uint32(0),) * len(LANES))


def _bits(x: jax.Array) -> jax.Array:
    """Returns each element as an unsigned integer; 8-byte elements get a last dimension of 2."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    return jax.lax.bitcast_convert_type(x, UNSIGNED[min(x.dtype.itemsize, 4)])


def _sums(bits: jax.Array, starts: tuple, first_dim: int) -> tuple[jax.Array, ...]:
    """Returns a lane per start, which is the hash of the indexes before `first_dim`."""
    wide = bits.astype(jnp.uint32)
    hashes = (_index_hash(bits.shape, start, first_dim) for start in starts)
    return tuple(jnp.sum(mix(wide ^ h), dtype=jnp.uint32) for h in hashes)


def _index_hash(shape: tuple[int, ...], start: int | jax.Array, first_dim: int) -> jax.Array:
    """Returns a hash of each element's index, one dimension after the other.

    No linear index is formed: it would overflow 32 bits in arrays of 2^32 elements and more.
    """
    h = jnp.full((1,) * len(shape), start, jnp.uint32)
    for dim, size in enumerate(shape):
        line = tuple(size if d == dim else 1 for d in range(len(shape)))
        h = _hash_index(h, jax.lax.broadcasted_iota(jnp.uint32, line, dim), first_dim + dim)
    return h


def _hash_index(h: jax.Array, index: jax.Array, dim: int) -> jax.Array:
    return mix((h ^ jnp.uint32(index)) + jnp.uint32(0x9E3779B9 + dim))
