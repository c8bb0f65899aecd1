"""The Hopper kernels compiled for an H100 that is not here: no register spills, no lost product."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask
from llama_jax.planning import topology

# jax 0.10 gives a kernel that changes memory in place a name of its own.
FUSED = "attention_backward_fused" if jax.version.__version_info__ >= (0, 11) else "new_body"
KERNELS = {
    "gpu": ("attention_forward", "attention_backward_dkv", "attention_backward_dq"),
    "gpu_fused": ("attention_forward", FUSED),
}


@functools.cache
def device():
    pytest.importorskip("jax_plugins.xla_cuda13", reason="the compiler for GPUs is in [plan]")
    return topology.devices(topology.parse("gpu:h100:1"))[0]


def compiled(T: int, N: int, K: int, H: int, dtype=jnp.bfloat16, impl="gpu", **rule):
    """Returns the program of value and gradients of packed rows."""
    place = NamedSharding(Mesh(np.array([device()]), ("x",)), PartitionSpec())
    q, k = (jax.ShapeDtypeStruct((1, T, heads, H), dtype, sharding=place) for heads in (N, K))
    segment_BT = jax.ShapeDtypeStruct((1, T), jnp.int32, sharding=place)

    def run(q_BTNH, k_BSKH, v_BSKH, grad_BTNH, segment_BT):
        mask = Mask.packed(segment_BT, **rule)
        kind = device().device_kind
        attend = functools.partial(api.attention, mask=mask, impl=impl, device_kind=kind)
        out_BTNH, back = jax.vjp(attend, q_BTNH, k_BSKH, v_BSKH)
        return out_BTNH, *back(grad_BTNH)

    return jax.jit(run).lower(q, k, k, q, segment_BT).compile()


@pytest.fixture
def dumps(tmp_path, monkeypatch):
    """The folder into which the compiler writes what it makes of each kernel."""
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", str(tmp_path))
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTX", "1")
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")
    return tmp_path


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ((4096, 32, 32, 128), {}),
        ((4096, 8, 8, 64), {}),
        ((4096, 4, 2, 96), {}),
        ((32768, 32, 8, 128), {}),
        ((32768, 8, 8, 128), {"window": 4096}),
        ((131072, 8, 8, 128), {}),
        ((131072, 4, 4, 64), {"window": 4096}),
        ((4000, 4, 1, 128), {"dtype": jnp.float16}),
        ((4096, 8, 2, 96), {"impl": "gpu_fused"}),
        ((32768, 32, 8, 128), {"impl": "gpu_fused", "window": 4096}),
        ((131072, 4, 4, 64), {"impl": "gpu_fused", "dtype": jnp.float16}),
    ],
)
def test_every_kernel_compiles_without_spills(sizes, rule, dumps):
    compiled(*sizes, **rule)
    for kernel in KERNELS[rule.get("impl", "gpu")]:
        (report,) = dumps.glob(f"{kernel}_*.ptxas")
        spills = re.findall(r"(\d+) bytes spill", report.read_text())
        assert spills and set(spills) == {"0"}


@pytest.mark.parametrize(
    ("impl", "sizes", "expected"),
    [
        # n is keys, queries or head size; 8 sums over a head of 128, 4 over a tile of 64.
        ("gpu", (4096, 4, 4, 128), [{128: 8 + 8}, {64: 8 + 8, 128: 4 + 4}, {64: 8 + 8, 128: 4}]),
        # A warpgroup makes half of the columns of dq, by 8 sums over 128 keys.
        ("gpu_fused", (2048, 4, 4, 128), [{128: 8 + 8}, {64: 8 + 8 + 8, 128: 4 + 4}]),
    ],
)
def test_each_tile_takes_two_products_forward_and_seven_or_five_backward(
    impl, sizes, expected, dumps
):
    """Per tile a warpgroup issues sums over 16; there is a loop with a mask and one without."""
    compiled(*sizes, impl=impl)
    for kernel, products in zip(KERNELS[impl], expected, strict=True):
        (ptx,) = dumps.glob(f"{kernel}_*.ptx")
        shapes = re.findall(r"wgmma\.mma_async\S*?m64n(\d+)k16", ptx.read_text())
        found = collections.Counter(map(int, shapes))
        assert found == {n: 2 * count for n, count in products.items()}


def test_dq_is_added_to_where_it_was_zeroed(dumps):
    """No copy of it is made; each half of the columns is added once per visit, in two loops."""
    text = compiled(1024, 4, 4, 128, impl="gpu_fused").as_text()
    (ptx,) = dumps.glob(f"{FUSED}_*.ptx")
    assert ptx.read_text().count("cp.reduce.async.bulk.tensor") == 2
    copies = re.findall(r"= f32\[1,1024,4,2,64\]\S* (copy\S*)\(", text)
    assert "f32[1,1024,4,2,64]" in text and not copies


def test_a_policy_that_keeps_the_named_outputs_skips_the_forward_kernel():
    def calls(*names):
        policy = jax.checkpoint_policies.save_only_these_names(*names)

        @functools.partial(jax.checkpoint, policy=policy)
        def layer(x):
            kind = device().device_kind
            return jnp.sin(api.attention(jnp.sin(x), x, x, Mask(), "gpu", device_kind=kind)).sum()

        place = NamedSharding(Mesh(np.array([device()]), ("x",)), PartitionSpec())
        x = jax.ShapeDtypeStruct((1, 512, 2, 128), jnp.bfloat16, sharding=place)
        return jax.jit(jax.value_and_grad(layer)).lower(x).compile().as_text().count("mosaic_gpu")

    assert calls("attention_out", "attention_lse") < calls()
