"""Everything a step changes: what a checkpoint must hold."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llama_jax.config.train import TrainConfig
from llama_jax.model import llama
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A run between two steps; together with the settings it decides all that follows."""

    step: jax.Array  # i32: batches seen; decides the next batch and the dropout.
    updates: jax.Array  # i32: updates made; decides the learning rate.
    skipped_in_a_row: jax.Array  # i32
    params: llama.Params
    opt_state: Any


def abstract_state(
    config: TrainConfig, optimizer: optax.GradientTransformation, layout: Layout
) -> TrainState:
    """Returns the shapes, dtypes and shardings of a state; allocates nothing."""
    shapes = jax.eval_shape(lambda: _initial(config, optimizer))
    return place.with_shardings(shapes, place.shardings(layout, shapes))


def create_state(
    config: TrainConfig, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """Returns a fresh state; each array is made where it stays, never whole on one device."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda: _initial(config, optimizer), out_shardings=shardings)()


def with_params(state: TrainState, params: llama.Params) -> TrainState:
    """Returns a fresh state that starts from these parameters."""
    return dataclasses.replace(state, params=params)


def _initial(config: TrainConfig, optimizer: optax.GradientTransformation) -> TrainState:
    params = llama.create(config.model, config.compute, config.seed)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, zero, zero, params, optimizer.init(params))
