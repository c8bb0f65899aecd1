"""A layer of Llama-2-7B's width compiled for an H100 that is not here: what fuses, stays fused."""

import dataclasses
import functools
import math

import pytest

from llama_jax.config import presets
from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.config.train import TrainConfig
from llama_jax.planning import hlo, layer, program, topology

T, LAYERS, BF16 = 4096, 2, 2
MODEL = dataclasses.replace(presets.LLAMA2_7B, layers=LAYERS)
D, F = MODEL.embed, MODEL.mlp


@functools.cache
def kernels() -> list[layer.Kernel]:
    pytest.importorskip("jax_plugins.xla_cuda13", reason="the compiler for GPUs is in [plan]")
    where = topology.parse("gpu:h100:1")
    mixture = {"text": SourceConfig(path="text")}
    config = TrainConfig(
        workdir="none",
        model=MODEL,
        data=DataConfig(tokenizer="bytes", mixture=mixture, batch_size=1, sequence_length=T),
        compute=ComputeConfig(remat="full", attention="gpu"),
    )
    compiled = program.compile(config, where, topology.devices(where)[:1])
    return layer.kernels(compiled.text, LAYERS)


def moved(*purposes: str) -> int:
    return sum(kernel.bytes for kernel in kernels() if kernel.purpose in purposes)


def test_all_work_of_the_layer_is_found():
    """As many operations as by formula: 8 a parameter with the forward pass made twice, but for
    the MLP's last product, and attention's 2 + 2 + 7 products of T T / 2."""
    attention, mlp = 4 * D * D, 3 * D * F
    products = T * (8 * (attention + mlp) - 2 * D * F) + 11 * T * T * D
    assert math.isclose(sum(kernel.flops for kernel in kernels()), products, rel_tol=1e-3)


def test_no_array_of_tokens_is_written_in_float32():
    for kernel in kernels():
        for array in hlo.arrays(kernel.results):
            assert array.dtype != "f32" or math.prod(array.dims) < T * D, kernel


def test_steps_between_products_move_no_more_than_the_arrays_they_name():
    """In arrays of T x D, and of T x F, in bfloat16; a tenth for tables and sums."""
    narrow, wide = BF16 * T * D, BF16 * T * F
    # Forward x -> y and again, sums of rows first; back: x, dy, twice, the residual's -> dx.
    assert moved("RMSNorm") <= 1.1 * 2 * (2 + 3 + 6) * narrow
    # gate, up -> hidden, twice; gate, up, the gradient of hidden -> theirs.
    assert moved("SwiGLU") <= 1.01 * (3 + 3 + 5) * wide
    # q and k forward, again, back; forward also the mask of padding, in bytes, as large as they.
    turned = 2 * (2.5 + 2 + 2) * narrow
    # XLA of jax 0.11 joins weights of q and k, twice, and their gradients, and takes parts out.
    joined = (2 * 4 + 4 + 4) * narrow
    # Residuals and sums of gradients are added by products, which round what they write.
    others = "residual and sums of gradients", "rounding of products"
    assert moved("RoPE", *others) <= 1.1 * turned + joined
