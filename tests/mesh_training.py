"""Trains a tiny model on a mesh of simulated devices, to compare with one device."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.optim import OptimConfig
from llama_jax.config.train import LossConfig, TrainConfig
from llama_jax.data.batch import Batch, place
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.training import state as states
from llama_jax.training.parallelism import resolve
from llama_jax.training.step import compile_step

B, T, V, STEPS = 8, 32, 64, 5
ONE = MeshConfig(fsdp=1)
MODEL = ModelConfig(layers=2, embed=32, mlp=64, heads=8, kv_heads=8, head_dim=8, vocab=V, context=T)
SETTINGS = TrainConfig(
    workdir="unused",
    model=MODEL,
    steps=STEPS,
    data=DataConfig(
        tokenizer="unused",
        mixture={"a": SourceConfig(path="unused")},
        sequence_length=T,
        batch_size=B,
    ),
    compute=ComputeConfig(dtype="float32", attention_chunk=4),
    loss=LossConfig(chunk=B * T, z_loss=1e-2),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
    mesh=ONE,
)


def concat(seed: int) -> Batch:
    """Rows that run over document ends, with targets of different weight."""
    rng = np.random.default_rng(seed)
    token = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    position = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    weight = rng.integers(0, 3, (B, T)).astype(np.float32)
    return Batch(token[:, :-1], token[:, 1:], position, np.ones((B, T), np.int32), weight)


def segments(seed: int) -> Batch:
    """Rows of three documents and some padding."""
    rng = np.random.default_rng(seed)
    segment, position = np.zeros((2, B, T), np.int32)
    for row in range(B):
        cuts = [0, *sorted(rng.choice(np.arange(1, T), 3, replace=False))]
        for number, (start, stop) in enumerate(itertools.pairwise(cuts), 1):
            segment[row, start:stop] = number
            position[row, start:stop] = np.arange(stop - start)
    batch = concat(seed)
    weight = batch.weight_BT * (segment > 0)
    return dataclasses.replace(batch, segment_BT=segment, position_BT=position, weight_BT=weight)


BATCHES = {"concat": concat, "segments": segments}


class Training:
    """The training of `config` on its mesh: one device for mesh ONE, else eight."""

    def __init__(self, config: TrainConfig):
        devices = jax.devices()[: 1 if config.mesh == ONE else 8]
        self.layout = Layout(make_mesh(config.mesh, devices), config.sharding)
        self.config = resolve(config, self.layout)
        self._optimizer = optimizers.adamw(config.optim, config.steps)
        self._graph, _ = llama.abstract(
            self.config.model, self.config.compute, self.layout, config.lora
        )
        self._abstract = states.abstract_state(self.config, self._optimizer, self.layout)

    @functools.cached_property
    def _fresh(self):
        """The state before the first step, on the host; adapters where all have gradients."""
        state = jax.device_get(states.create_state(self.config, self._optimizer, self._abstract))
        if not self.config.lora.r:
            return state
        rng = np.random.default_rng(0)
        moved = jax.tree.map(
            lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), state.params
        )
        return states.with_params(state, moved)

    @functools.cached_property
    def _step(self):
        what = self.config, self._graph, self._optimizer, self._abstract, self.layout
        return compile_step(*what)

    def _state(self):
        return jax.device_put(self._fresh, jax.tree.map(lambda x: x.sharding, self._abstract))

    def batch(self, seed: int, packing: str = "segments") -> Batch:
        """Returns a batch on the devices."""
        return place(BATCHES[packing](seed), np.arange(B), (B, T), self.layout)

    def run(self, steps: int = STEPS, packing: str = "segments"):
        """Returns the metrics of each step, the first gradients, and the last parameters."""
        state, metrics, gradients = self._state(), [], None
        for seed in range(steps):
            old = state
            state, scalars = self._step(old, self.batch(seed, packing))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old)), "not donated"
            metrics.append(jax.device_get(scalars))
            if gradients is None:
                gradients = self._gradients(state, metrics[0]["grad_norm"])
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.base), self._fresh.base)
        return metrics, gradients, jax.device_get(state.params)

    def _gradients(self, state, norm: float):
        """Returns the gradients of the first step, from the moment that it left."""
        # Of a copy: NumPy's view of the state itself would keep the next step from taking it over.
        moment = jax.device_get(jax.tree.map(jnp.copy, optax.tree.get(state.opt_state, "mu")))
        optim = self.config.optim
        clipped = max(1.0, norm / optim.clip) / (1 - optim.betas[0])
        return jax.tree.map(lambda leaf: leaf.astype(np.float32) * clipped, moment)


def assert_close(got, want, atol: float = 1e-6):
    """Compares trees to 1e-5."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), got, want)
