"""Everything a step changes: what a checkpoint must hold."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llama_jax.config.train import TrainConfig
from llama_jax.model import llama, lora
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.training import loss_scale
from llama_jax.training.loss_scale import LossScale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A run between two steps; together with the settings it decides all that follows."""

    step: jax.Array  # i32: batches seen; decides the next batch and the dropout.
    updates: jax.Array  # i32: updates made; decides the learning rate.
    skipped_in_a_row: jax.Array  # i32
    params: llama.Params  # Those that are trained: all, or adapters.
    opt_state: Any
    base: llama.Params = dataclasses.field(default_factory=dict)  # What adapters adapt.
    loss_scale: LossScale | None = None  # Where the model is computed in float16.

    @property
    def all_params(self) -> llama.Params:
        """Returns the parameters of the whole model."""
        return lora.join(self.base, self.params)

    def without_base(self) -> "TrainState":
        """Returns what a checkpoint holds: the base never changes, and is where it came from."""
        return dataclasses.replace(self, base={})


def abstract_state(
    config: TrainConfig, optimizer: optax.GradientTransformation, layout: Layout
) -> TrainState:
    """Returns the shapes, dtypes and shardings of a state; allocates nothing."""
    shapes = jax.eval_shape(lambda: _initial(config, optimizer))
    return place.with_shardings(shapes, place.shardings(layout, shapes))


def create_state(
    config: TrainConfig, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """Returns a fresh state; each array is made where it stays, never whole on one device.

    Its base is that of `abstract`: empty if that is, for one that is read.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def make() -> TrainState:
        state = _initial(config, optimizer)
        return state if abstract.base else state.without_base()

    return jax.jit(make, out_shardings=shardings)()


def with_params(state: TrainState, params: llama.Params) -> TrainState:
    """Returns a fresh state that starts from these parameters."""
    return dataclasses.replace(state, params=params)


def _initial(config: TrainConfig, optimizer: optax.GradientTransformation) -> TrainState:
    params = llama.create(config.model, config.compute, config.seed, config.lora)
    trained, base = lora.divide(params) if config.lora.r else (params, {})
    zero = jnp.zeros((), jnp.int32)
    scale = loss_scale.create(config.loss_scale) if config.compute.dtype == "float16" else None
    return TrainState(zero, zero, zero, trained, optimizer.init(trained), base, scale)
