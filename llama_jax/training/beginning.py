"""Where a run begins: at its newest good checkpoint, else at given weights, else at random."""

import dataclasses
import sys
from functools import partial
from typing import Any

import jax
import optax

from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.model import ModelConfig
from llama_jax.config.train import TrainConfig, too_long
from llama_jax.converters import weights
from llama_jax.data.loader import Loader
from llama_jax.distributed.processes import Processes
from llama_jax.model import llama, vocabulary
from llama_jax.sharding.layout import Layout
from llama_jax.training import base
from llama_jax.training.directory import RunDirectory
from llama_jax.training.state import TrainState, abstract_state, create_state, with_params


def begin(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    directory: RunDirectory,
    loader: Loader,
    checkpoints: CheckpointManager,
    processes: Processes,
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state to train from, and what checkpoints say of a base ({} without one).

    The order matters: a run's own checkpoints come first.

    Raises:
        ValueError: The checkpoint or the weights were made with other settings.
        OSError: No checkpoint is good.
    """
    abstract = abstract_state(config, optimizer, layout)
    if checkpoints.found:
        # First the settings: what differs there is said better than by names of arrays.
        if (written := directory.written()) is not None:
            directory.refuse_changes(written)
        state, meta = checkpoints.restore(abstract.without_base())
        directory.refuse_changes(meta, loader.fingerprint)
        loader.continue_at(int(state.step), meta["data"])
        return _with_base(config, layout, state, abstract, meta.get("base"), processes)
    state = create_state(config, optimizer, abstract.without_base())
    if config.lora.init_from:
        state = with_params(state, base.start(config, abstract.params))
    elif config.init_from and not config.lora.r:
        params = read_weights(config.init_from, config, abstract.params)
        state = with_params(state, params)
    return _with_base(config, layout, state, abstract, None, processes)


def _with_base(
    config: TrainConfig,
    layout: Layout,
    state: TrainState,
    abstract: TrainState,
    recorded: dict[str, Any] | None,
    processes: Processes,
) -> tuple[TrainState, dict[str, Any]]:
    if not config.lora.r:
        return state, {}
    where = base.locate(config, recorded, processes)
    return base.read(config, where, layout, state, abstract), {"base": dataclasses.asdict(where)}


def read_weights(path: str, config: TrainConfig, abstract: llama.Params) -> llama.Params:
    """Returns the weights at `path`, placed like `abstract`; a larger vocabulary gets new rows.

    Raises:
        ValueError: They are of another model than config.model.
    """
    found = weights.find(path)
    check_same_model(found.model, config.model, path)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    params = found.read(config.compute.param_dtype, shardings)
    more = config.model.vocab - found.model.vocab
    if not more:
        return params
    print(
        f"{path}: {more} rows are added to its vocabulary of {found.model.vocab}", file=sys.stderr
    )
    grow = partial(vocabulary.grow, config=config.model, key=jax.random.key(config.seed))
    return jax.jit(grow, out_shardings=shardings)(params)


def check_same_model(stored: ModelConfig, model: ModelConfig, path: str) -> None:
    """Refuses weights of another shape, and a longer context without a position setting for it.

    Raises:
        ValueError: See above; the message names the settings.
    """
    for name in weights.SHAPE:
        have, want = getattr(stored, name), getattr(model, name)
        if have != want:
            raise ValueError(
                f"config.model.{name} is {want} but the weights at {path} have {have}. "
                f"Set config.model.{name}={have}, or other weights in config.init_from."
            )
    if stored.vocab > model.vocab:
        raise ValueError(
            f"config.model.vocab is {model.vocab} but the weights at {path} have {stored.vocab}; "
            "rows can be added, not taken away."
        )
    if model.context > stored.context and model.rope == stored.rope:
        raise ValueError(too_long("config.model.context", model.context, stored))
