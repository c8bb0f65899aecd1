"""A sequence split over devices attends as one that is not: values and gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig
from llama_jax.kernels.attention import api, reference
from llama_jax.kernels.attention.mask import Mask
from llama_jax.model import split_attention
from llama_jax.sharding import zigzag
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh

B, T, H = 2, 48, 8
SEGMENTS = np.sort(np.random.default_rng(1).integers(0, 4, (B, T)))[:, ::-1]  # 0 is padding, last.
MASKS = {
    "causal": Mask(),
    "window": Mask(window=11),
    "segments": Mask.packed(jnp.asarray(SEGMENTS)),
    "window and segments": Mask.packed(jnp.asarray(SEGMENTS), window=5),
}


def arrays(N, K):
    rng = np.random.default_rng(0)
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def stored(mask: Mask, order) -> Mask:
    return jax.tree.map(lambda leaf: leaf[:, order], mask)


def value_and_gradients(attend, q, k, v, grad):
    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(grad)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 1)], ids=["MHA", "MQA"])
@pytest.mark.parametrize(
    ("method", "impl", "mesh"),
    [
        *itertools.product(("ring", "gather"), ("chunked",), [(1, 8, 1), (2, 2, 2), (1, 3, 2)]),
        ("gather", "reference", (2, 2, 2)),
        ("ulysses", "chunked", (2, 4, 1)),
        ("ulysses", "chunked", (2, 2, 2)),
        ("ulysses", "tpu_interpret", (1, 2, 2)),
        ("ring", "tpu_interpret", (1, 3, 1)),
        ("gather", "tpu_interpret", (1, 2, 2)),
    ],
    ids=str,
)
def test_a_split_sequence_equals_a_whole_one(mesh, method, impl, heads, mask):
    fsdp, context, tensor = mesh
    devices = jax.devices()[: fsdp * context * tensor]
    config = MeshConfig(fsdp=fsdp, context=context, tensor=tensor)
    layout = Layout(make_mesh(config, devices), ShardingRules())
    compute = ComputeConfig(attention=impl, attention_chunk=4, context_parallel=method)
    order, inputs = zigzag.order(T, context), arrays(*heads)
    back = np.argsort(order)

    def attend(q, k, v):
        shape = api.shape_of(q, k)
        whole = split_attention.prepare(layout, compute, stored(MASKS[mask], order), shape)
        return split_attention.attention(layout, compute, q, k, v, whole)

    found = jax.jit(functools.partial(value_and_gradients, attend))(*(a[:, order] for a in inputs))
    whole = functools.partial(reference.attention, mask=MASKS[mask])
    wanted = value_and_gradients(whole, *inputs)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got[:, back], want, rtol=1e-5, atol=1e-5)


def test_hidden_tiles_are_not_computed():
    """A tile is computed where the indices let a query see a key: zigzag halves the work."""
    order = jnp.asarray(zigzag.order(64, 4))
    here = order[:16]  # Chunks 0 and 7 of 8.
    mask = Mask(q_index_T=here, k_index_S=order)
    seen = [[bool(mask.may_see(q, k, 8, 8)) for k in range(0, 64, 8)] for q in (0, 8)]
    assert seen[0] == [True] + [False] * 7 and all(seen[1])
