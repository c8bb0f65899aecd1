"""Every mesh computes what one device computes: loss, gradients, five steps."""

import dataclasses
import functools
import itertools
import math

import pytest
from mesh_training import MODEL, SETTINGS, Training, assert_close

from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.sharding.mesh import AXES

KV_HEADS = {"MHA": 8, "GQA": 2}  # GQA: fewer key heads than the largest tensor axis.
FACTORISATIONS = [
    MeshConfig(**dict(zip(AXES, sizes, strict=True)))
    for sizes in itertools.product((1, 2, 4, 8), repeat=4)
    if math.prod(sizes) == 8
]


TABLES = {
    "weights over fsdp alone": ShardingRules(embed=("fsdp",)),
    "whole weights": ShardingRules(embed=(), heads=(), kv_heads=(), mlp=(), vocab=()),
    "an axis that splits nothing": ShardingRules(heads=(), kv_heads=(), mlp=(), vocab=()),
    "rows over three axes": ShardingRules(
        batch=("data", "fsdp", "tensor"), heads=(), kv_heads=(), mlp=(), vocab=()
    ),
    "sequences over two axes": ShardingRules(
        sequence=("context", "tensor"), heads=(), kv_heads=(), mlp=(), vocab=()
    ),
}


def settings(heads: str, **changes):
    model = dataclasses.replace(MODEL, kv_heads=KV_HEADS[heads])
    loss = dataclasses.replace(SETTINGS.loss, chunk=32)
    return dataclasses.replace(SETTINGS, model=model, loss=loss, **changes)


@functools.cache
def on_one_device(heads: str):
    return Training(settings(heads)).run()


def check(config, heads: str):
    metrics, gradients, params = Training(config).run()
    want_metrics, want_gradients, want_params = on_one_device(heads)
    assert_close(metrics, want_metrics)
    assert_close(gradients, want_gradients)
    # Adam divides its first steps by sqrt(v) near 0, which widens the rounding of gradients.
    assert_close(params, want_params, atol=1e-5)


@pytest.mark.parametrize("heads", KV_HEADS)
@pytest.mark.parametrize(
    "mesh", FACTORISATIONS, ids=lambda mesh: "x".join(str(getattr(mesh, axis)) for axis in AXES)
)
def test_every_factorisation_equals_one_device(mesh, heads):
    check(settings(heads, mesh=mesh), heads)


@pytest.mark.parametrize(
    ("table", "method"), list(zip(TABLES, itertools.cycle(["ring", "gather"]), strict=False))
)
def test_another_table_changes_nothing(table, method):
    config = settings("GQA", mesh=MeshConfig(fsdp=2, context=2, tensor=2), sharding=TABLES[table])
    compute = dataclasses.replace(config.compute, context_parallel=method)
    check(dataclasses.replace(config, compute=compute), "GQA")
