"""The base that adapters are trained on: found, told apart from any other, and read."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.config.lora import LoraConfig
from llama_jax.config.train import TrainConfig
from llama_jax.converters import adapters, weights
from llama_jax.converters.adapters import Base
from llama_jax.converters.weights import Weights
from llama_jax.core import tree
from llama_jax.distributed.processes import Processes, agreed
from llama_jax.model import llama, quantized
from llama_jax.sharding.layout import Layout
from llama_jax.telemetry import progress
from llama_jax.training.state import TrainState


def locate(config: TrainConfig, recorded: dict[str, Any] | None, processes: Processes) -> Base:
    """Returns where the base of a run is, and its fingerprint, which process 0 takes.

    Args:
        config: The run's settings.
        recorded: What its newest checkpoint says of the base; None for a new run.
        processes: Of the run.

    Raises:
        ValueError: It is not the base that is recorded.
    """
    found = _find(config, recorded)
    weights.check_same_shape(
        found.model, config.model, "config.model and its adapters", config.init_from
    )
    mark = found.fingerprint() if processes.id == 0 else None
    mark = agreed(processes, "base", mark)
    if recorded is not None and mark != recorded["fingerprint"]:
        raise ValueError(
            f"{config.init_from} has changed since this run began on it: its fingerprint is "
            "another. Bring the old weights back, or start anew in another config.workdir."
        )
    return Base(str(Path(config.init_from).absolute()), found.step, mark)


def read(
    config: TrainConfig, base: Base, layout: Layout, state: TrainState, abstract: TrainState
) -> TrainState:
    """Returns the state with its base, placed like `abstract` and quantized if asked."""
    found = weights.find(config.init_from, base.step or None)
    if config.lora.quantization == "none":
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.base)
        params = found.read(config.compute.param_dtype, shardings)
    else:
        params = _quantized(config, found, layout, abstract.base)
    return dataclasses.replace(state, base=params)


def _quantized(
    config: TrainConfig, found: Weights, layout: Layout, abstract: llama.Params
) -> llama.Params:
    """Returns the base; of its matrices one layer's is there before it is quantized."""
    found.refuse_rounding(config.compute.param_dtype)
    _, whole = llama.abstract(config.model, config.compute)
    wanted, params = tree.named_leaves(abstract), {}
    for name in progress.counted(list(tree.named_leaves(whole)), "Quantizing weights"):
        if name in wanted:
            params[name] = _put(found.leaf(name, config.compute.param_dtype), wanted[name].sharding)
            continue
        parts = {part: leaf for part, leaf in wanted.items() if part.startswith(f"{name}/")}
        params |= _quantized_parts(config.lora, found, layout, name, parts)
    return jax.tree.unflatten(jax.tree.structure(abstract), [params[name] for name in wanted])


def _quantized_parts(
    lora: LoraConfig,
    found: Weights,
    layout: Layout,
    name: str,
    wanted: dict[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
    """Returns the parts of one kernel by name, its layers stacked."""
    shardings = {part: leaf.sharding for part, leaf in wanted.items()}
    zeros = {part: (leaf.shape, leaf.dtype) for part, leaf in wanted.items()}
    stacked = jax.jit(
        lambda: {part: jnp.zeros(*how) for part, how in zeros.items()}, out_shardings=shardings
    )()

    def put(stacked, layer, kernel):
        parts = quantized.of_kernel(lora, name, kernel)
        return {
            part: jax.lax.dynamic_update_index_in_dim(leaf, parts[part.split("/")[-1]], layer, 0)
            for part, leaf in stacked.items()
        }

    # Overwritten in place: the codes of all layers are never there twice.
    put = jax.jit(put, donate_argnums=0, out_shardings=shardings)
    for layer, kernel in enumerate(found.layers(name)):
        stacked = put(stacked, jnp.int32(layer), _put(np.asarray(kernel), layout.sharding()))
    return stacked


def _put(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def start(config: TrainConfig, abstract: llama.Params) -> llama.Params:
    """Returns the adapters at config.lora.init_from, placed like `abstract`.

    Raises:
        ValueError: They are of other settings than config.lora.
    """
    found = adapters.find(config.lora.init_from)
    _check_same_adapters(found.lora, config.lora, config.lora.init_from)
    named = found.read(config.model)

    def placed(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return _put(np.asarray(named[name]).astype(leaf.dtype), leaf.sharding)

    return tree.map_named(placed, abstract)


def _find(config: TrainConfig, recorded: dict[str, Any] | None) -> Weights:
    # The step too: a run that goes on has a newer one.
    return weights.find(config.init_from, (recorded or {}).get("step") or None)


def _check_same_adapters(stored: LoraConfig, lora: LoraConfig, path: str) -> None:
    for name in ("r", "alpha", "rank_stabilized", "adapted"):
        have, want = getattr(stored, name), getattr(lora, name)
        if have != want:
            setting = "targets" if name == "adapted" else name
            raise ValueError(
                f"config.lora.{setting} is {want} but the adapters at {path} have {have}. Set "
                f"--config.lora.{setting}={have}."
            )
