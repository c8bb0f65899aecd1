"""The loss compiled for accelerators that are not here: the logits never exist all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.losses.cross_entropy import chunked_cross_entropy
from llama_jax.planning import topology

TOPOLOGIES = {"v5p": ("tpu:v5p:2x2x1", "libtpu"), "h100": ("gpu:h100:1", "jax_plugins.xla_cuda13")}
T, D = 32768, 4096


def dense(x_BTD, head_DV, target_BT, weight_BT):
    head_DV = head_DV.astype(x_BTD.dtype)
    logit_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV, preferred_element_type=jnp.float32)
    target_logit_BT = jnp.take_along_axis(logit_BTV, target_BT[..., None], axis=-1)[..., 0]
    return (weight_BT * (jax.nn.logsumexp(logit_BTV, axis=-1) - target_logit_BT)).sum()


def ours(*arrays):
    return chunked_cross_entropy(*arrays, chunk=1024, z_loss=0.0)[0]


def temporaries(loss, chip: str, V: int, dtype, head_dtype) -> int:
    """Returns the bytes of temporaries of value and gradients."""
    name, module = TOPOLOGIES[chip]
    pytest.importorskip(module, reason=f"{module}, a compiler, is in the extra [plan]")
    device = topology.devices(topology.parse(name))[0]
    place = NamedSharding(Mesh(np.array([device]), ("x",)), PartitionSpec())
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=place)
    arrays = (
        shape((1, T, D), dtype),
        shape((D, V), head_dtype),
        shape((1, T), jnp.int32),
        shape((1, T), jnp.float32),
    )
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("chip", TOPOLOGIES)
@pytest.mark.parametrize(
    ("V", "dtype", "head_dtype"),
    [
        (32_000, jnp.bfloat16, jnp.float32),  # As in training.
        (32_000, jnp.bfloat16, jnp.bfloat16),
        (32_000, jnp.float32, jnp.float32),
        (128_256, jnp.bfloat16, jnp.float32),
    ],
)
def test_temporaries_are_a_tenth_of_those_of_all_logits(chip, V, dtype, head_dtype):
    how = (chip, V, dtype, head_dtype)
    assert temporaries(ours, *how) <= temporaries(dense, *how) / 10
