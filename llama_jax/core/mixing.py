"""A bijection of 32-bit words that spreads every bit: the finaliser of MurmurHash3.

https://github.com/aappleby/smhasher
"""

import jax
import jax.numpy as jnp


def mix(h: jax.Array) -> jax.Array:
    """Returns u32 of the shape of h; different words stay different."""
    h = (h ^ (h >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> jnp.uint32(16))
