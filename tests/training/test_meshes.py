"""Every mesh computes what one device computes: loss, gradients, five steps."""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import pytest

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.optim import OptimConfig
from llama_jax.config.train import LossConfig, TrainConfig
from llama_jax.data.batch import Batch, place
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import AXES, make_mesh
from llama_jax.training import state as states
from llama_jax.training.parallelism import resolve
from llama_jax.training.step import compile_step, gradients

B, T, V, STEPS = 8, 32, 64, 5
ONE = MeshConfig(fsdp=1)
HEADS = {"MHA": (8, 8), "GQA": (8, 2)}  # GQA: fewer key heads than the largest tensor axis.
FACTORISATIONS = [
    MeshConfig(**dict(zip(AXES, sizes, strict=True)))
    for sizes in itertools.product((1, 2, 4, 8), repeat=4)
    if math.prod(sizes) == 8
]


def settings(heads="MHA", **changes) -> TrainConfig:
    model = ModelConfig(
        layers=2,
        embed=32,
        mlp=64,
        heads=HEADS[heads][0],
        kv_heads=HEADS[heads][1],
        head_dim=8,
        vocab=V,
        context=T,
    )
    config = TrainConfig(
        workdir="unused",
        model=model,
        steps=STEPS,
        data=DataConfig(
            tokenizer="unused",
            mixture={"a": SourceConfig(path="unused")},
            sequence_length=T,
            batch_size=B,
        ),
        compute=ComputeConfig(dtype="float32", attention_chunk=4),
        loss=LossConfig(chunk=32, z_loss=1e-2),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
        mesh=ONE,
    )
    return dataclasses.replace(config, **changes)


def packed(seed: int) -> Batch:
    """Rows of three documents and some padding, with targets of different weight."""
    rng = np.random.default_rng(seed)
    token = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    segment, position = np.zeros((2, B, T), np.int32)
    for row in range(B):
        cuts = [0, *sorted(rng.choice(np.arange(1, T), 3, replace=False))]
        for number, (start, stop) in enumerate(itertools.pairwise(cuts), 1):
            segment[row, start:stop] = number
            position[row, start:stop] = np.arange(stop - start)
    weight = rng.integers(0, 3, (B, T)) * (segment > 0)
    return Batch(token[:, :-1], token[:, 1:], position, segment, weight.astype(np.float32))


def train(config: TrainConfig):
    """Returns the metrics of the first steps, the first gradients and the last parameters."""
    devices = jax.devices()[: 1 if config.mesh == ONE else 8]
    layout = Layout(make_mesh(config.mesh, devices), config.sharding)
    config = resolve(config, layout)
    optimizer = optimizers.adamw(config.optim, config.steps)
    graph, _ = llama.abstract(config.model, config.compute, layout)
    state = states.create_state(config, optimizer, states.abstract_state(config, optimizer, layout))
    batches = [place(packed(seed), np.arange(B), (B, T), layout) for seed in range(STEPS)]
    first, _ = jax.jit(functools.partial(gradients, config, graph, layout))(state, batches[0])
    first = jax.device_get(first)
    step = compile_step(config, graph, optimizer, state, layout)
    metrics = []
    for batch in batches:
        state, scalars = step(state, batch)
        metrics.append(jax.device_get(scalars))
    return metrics, first, jax.device_get(state.params)


@functools.cache
def on_one_device(heads: str):
    return train(settings(heads))


def assert_same_training(config: TrainConfig, heads: str):
    metrics, first, params = train(config)
    want_metrics, want_first, want_params = on_one_device(heads)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, metrics, want_metrics)
    jax.tree.map(functools.partial(close, atol=1e-5), first, want_first)
    # Five steps of Adam, whose first divides by sqrt(v) near 0, widen the rounding of gradients.
    jax.tree.map(functools.partial(close, atol=1e-5), params, want_params)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    "mesh", FACTORISATIONS, ids=lambda mesh: "x".join(str(getattr(mesh, axis)) for axis in AXES)
)
def test_every_factorisation_equals_one_device(mesh, heads):
    assert_same_training(settings(heads, mesh=mesh), heads)
