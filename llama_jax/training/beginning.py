"""Where a run begins: at its newest good checkpoint, else at given weights, else at random."""

import dataclasses
import sys
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.model import ModelConfig
from llama_jax.config.train import TrainConfig, too_long
from llama_jax.converters import weights
from llama_jax.converters.weights import Weights
from llama_jax.data.loader import Loader
from llama_jax.distributed.processes import Processes
from llama_jax.model import llama, vocabulary
from llama_jax.sharding.layout import Layout
from llama_jax.text import vocabulary as names
from llama_jax.text.tokenizer import Tokenizer, load_tokenizer
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
        tokenizer = load_tokenizer(config.data.tokenizer)
        params = read_weights(config.init_from, config, abstract.params, tokenizer)
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


def read_weights(
    path: str, config: TrainConfig, abstract: llama.Params, tokenizer: Tokenizer
) -> llama.Params:
    """Returns the weights at `path`, placed like `abstract`; each token finds its row by name.

    Raises:
        ValueError: They are of another model than config.model.
    """
    found = weights.find(path)
    check_same_model(found.model, config.model, path)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    params = found.read(config.compute.param_dtype, shardings)
    row = rows_by_name(found, config.model.vocab, tokenizer)
    if np.array_equal(row, np.arange(found.model.vocab)):
        return params
    _report_rows(path, row, found.model.vocab)
    arrange = partial(
        vocabulary.arrange,
        config=config.model,
        row_V=row,
        added=config.added_rows,
        key=jax.random.key(config.seed),
    )
    return jax.jit(arrange, out_shardings=shardings)(params)


def rows_by_name(found: Weights, vocab: int, tokenizer: Tokenizer) -> np.ndarray:
    """Returns i32 [vocab]: the row of the weights that each id has; -1 for new ones."""
    if found.tokenizer is None:
        return names.same_rows(found.model.vocab, vocab)
    old = load_tokenizer(found.tokenizer)
    if old.sha256 == tokenizer.sha256 or old.vocab_size > found.model.vocab:
        return names.same_rows(found.model.vocab, vocab)
    return names.rows(old, tokenizer, found.model.vocab, vocab)


def _report_rows(path: str, row: np.ndarray, vocab: int) -> None:
    new, moved = int(np.sum(row < 0)), int(np.sum((row >= 0) & (row != np.arange(len(row)))))
    said = [f"{new} rows are added to its vocabulary of {vocab}"] * bool(new)
    said += [f"{moved} tokens have other ids here, and take their rows along"] * bool(moved)
    lost = vocab - len(np.unique(row[row >= 0]))
    said += [f"{lost} rows are left out, since no token is called as theirs were"] * bool(lost)
    print(f"{path}: {'; '.join(said)}", file=sys.stderr)


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
