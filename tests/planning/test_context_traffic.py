"""What a split sequence sends, in the compiled program, against sharding/README.md."""

import jax
import jax.numpy as jnp
import pytest

from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig
from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask
from llama_jax.model import split_attention
from llama_jax.planning import collectives, hlo, topology
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh

B, S, N, K, H, P, BYTES = 2, 512, 8, 8, 16, 8, 4
SHARE = (P - 1) / P
# Forward, and backward as gradients of the same, numbers that arrive at each device. The ring's
# gradients go all the way round with the keys: 2 more passes of P steps than keys alone.
KEYS = 2 * B * S * K * H * SHARE
FORMULAS = {
    "gather": KEYS + KEYS,
    "ring": KEYS + KEYS + 2 * B * S * K * H,
    "ulysses": 2 * (2 * B * (S / P) * (N + K) * H * SHARE),
}


@pytest.mark.parametrize("method", FORMULAS)
def test_bytes_are_those_of_the_formula(method):
    layout = Layout(make_mesh(MeshConfig(fsdp=1, context=P), jax.devices()[:P]), ShardingRules())
    compute = ComputeConfig(attention="chunked", attention_chunk=64, context_parallel=method)

    def run(q_BTNH, k_BTKH, v_BTKH, grad_BTNH):
        shape = api.shape_of(q_BTNH, k_BTKH)
        mask = split_attention.prepare(layout, compute, Mask(), shape)
        out, back = jax.vjp(
            lambda *qkv: split_attention.attention(layout, compute, *qkv, mask),
            *(q_BTNH, k_BTKH, v_BTKH),
        )
        return out, *back(grad_BTNH)

    place = layout.sharding("batch", "sequence", None, None)
    q, k = (jax.ShapeDtypeStruct((B, S, heads, H), jnp.float32, sharding=place) for heads in (N, K))
    text = jax.jit(run).lower(q, k, k, q).compile().as_text()
    found = collectives.find(
        hlo.parse(text), layout.mesh, topology.parse("cpu:8"), topology.chip(jax.devices())
    )
    assert sum(one.bytes for one in found) / BYTES == pytest.approx(FORMULAS[method], rel=0.05)
