"""The TPU kernels compiled for TPUs that are not here: they fit, and nothing is wasted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask
from llama_jax.planning import topology

CHIPS = {"v5e": "tpu:v5e:2x2", "v5p": "tpu:v5p:2x2x1", "v6e": "tpu:v6e:2x2"}
MIB = 2**20


@functools.cache
def device(chip: str):
    pytest.importorskip("libtpu", reason="libtpu, the compiler for TPUs, is in the extra [plan]")
    return topology.devices(topology.parse(CHIPS[chip]))[0]


def compiled(function, chip: str, *shapes, dtype=jnp.bfloat16):
    """Returns the program for one device; every shape that is not a pair is of `dtype`."""
    place = NamedSharding(Mesh(np.array([device(chip)]), ("x",)), PartitionSpec())
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.int32 if len(shape) == 2 else dtype, sharding=place)
        for shape in shapes
    ]
    return jax.jit(function).lower(*arguments).compile()


def gradients(chip: str, T: int, N: int, K: int, H: int, dtype=jnp.bfloat16, **rule):
    """Returns the compiled value and gradients of attention, heads first."""

    def run(q_BNTH, k_BKSH, v_BKSH, grad_BNTH, segment_BT):
        def attend(*heads_first):
            qkv = (x.swapaxes(1, 2) for x in heads_first)
            mask = Mask(**rule) if rule else Mask.packed(segment_BT)
            out_BTNH = api.attention(*qkv, mask, "tpu", device_kind=device(chip).device_kind)
            return out_BTNH.swapaxes(1, 2)

        out_BNTH, back = jax.vjp(attend, q_BNTH, k_BKSH, v_BKSH)
        return out_BNTH, *back(grad_BNTH)

    q, k = (1, N, T, H), (1, K, T, H)
    return compiled(run, chip, q, k, k, q, (1, T), dtype=dtype)


def kernels(program) -> list[str]:
    names = ("attention_forward", "attention_backward_dkv", "attention_backward_dq")
    calls = [line for line in program.as_text().splitlines() if "tpu_custom_call" in line]
    found = [next((name for name in names if name in call), "attention_backward") for call in calls]
    return sorted(found)


FUSED = ["attention_backward", "attention_forward"]
TWO = ["attention_backward_dkv", "attention_backward_dq", "attention_forward"]


@pytest.mark.parametrize(
    ("chip", "T", "heads", "want"),
    [
        ("v5e", 4096, (8, 8, 128), FUSED),
        ("v5e", 32768, (8, 2, 128), FUSED),
        ("v5e", 131072, (2, 2, 128), FUSED),
        ("v5e", 32768, (16, 2, 128), TWO),
        ("v5p", 4096, (8, 8, 128), FUSED),
        ("v5p", 32768, (4, 2, 128), FUSED),
        ("v5p", 131072, (2, 2, 128), TWO),
        ("v6e", 4096, (8, 8, 128), FUSED),
        ("v6e", 32768, (8, 2, 128), FUSED),
        ("v6e", 131072, (2, 2, 128), FUSED),
    ],
)
def test_every_kernel_fits_the_chip(chip, T, heads, want):
    assert kernels(gradients(chip, T, *heads)) == want


def test_the_longest_lists_fit():
    """6 rows of 128K: 6 (8,256 + 128) visits of 16 bytes."""

    def run(x):
        kind = device("v5e").device_kind
        return jax.grad(lambda x: api.attention(x, x, x, Mask(), "tpu", device_kind=kind).sum())(x)

    assert kernels(compiled(run, "v5e", (6, 131072, 1, 128))) == FUSED


@pytest.mark.parametrize("H", [64, 96, 256])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_head_sizes_and_dtypes(H, dtype):
    assert kernels(gradients("v5e", 2048, 4, 2, H, dtype, window=500)) == FUSED


def test_the_backward_pass_holds_next_to_nothing_in_main_memory():
    """The log-sum-exp and the part of the normalisation, float32 [N, T] each, and the lists."""
    T, N, H = 32768, 32, 128
    program = gradients("v5e", T, N, N, H, causal=True)
    assert program.memory_analysis().temp_size_in_bytes < 2 * 4 * N * T + 32 * MIB


def test_a_policy_that_keeps_the_named_outputs_skips_the_forward_kernel():
    def program(*names):
        policy = jax.checkpoint_policies.save_only_these_names(*names)

        @functools.partial(jax.checkpoint, policy=policy)
        def layer(x):
            kind = device("v5e").device_kind
            return jnp.sin(api.attention(jnp.sin(x), x, x, Mask(), "tpu", device_kind=kind)).sum()

        return kernels(compiled(jax.value_and_grad(layer), "v5e", (1, 512, 2, 128)))

    assert program("attention_out", "attention_lse") == FUSED
    assert program() == [*FUSED, "attention_forward"]
