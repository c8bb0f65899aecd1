"""Adapters from wherever they are: a run that trained them, or a PEFT folder.

A run of adapters holds no base. Its checkpoints say where the base is, and its fingerprint.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llama_jax.checkpoint import reader
from llama_jax.config import load
from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import peft
from llama_jax.core import files, tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama, lora, quantized

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Base:
    """Where the weights are that adapters adapt."""

    path: str
    step: int = 0  # Of a run; 0 of anything else.
    fingerprint: str = ""  # "" if nobody took it (PEFT).


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters that have been found; `read` brings them into memory."""

    path: Path
    lora: LoraConfig
    model: ModelConfig | None  # Of a run; PEFT's is that of the base.
    base: Base
    step: int
    fingerprint: str
    _read: Callable[[ModelConfig], dict[str, np.ndarray]]
    embedding: Callable[[], np.ndarray | None] = lambda: None  # PEFT's copy of the base's.

    def read(self, model: ModelConfig) -> dict[str, np.ndarray]:
        """Returns a and b by name: layers/attention/q/lora/a."""
        return self._read(model)


def are_in(path: Path) -> bool:
    """True if a folder holds adapters and not whole weights."""
    if (path / peft.CONFIG).is_file():
        return True
    if not (path / CONFIG).is_file():
        return False
    values = files.read_json(path / CONFIG)
    for name in ("settings", "lora", "r"):
        values = values.get(name) if isinstance(values, dict) else None
    return isinstance(values, int) and values > 0


def find(path: str | Path, step: int | None = None) -> Adapters:
    """Returns the adapters of a run (`step` None: the newest) or of a PEFT folder.

    Raises:
        ValueError: There are none, or no such step.
        DataError: A file is damaged, or asks for what is not done here.
    """
    path = Path(path)
    if not are_in(path):
        raise ValueError(
            f"{path} holds no adapters. Name a run directory with config.lora.r above 0, or a PEFT "
            f"folder ({peft.CONFIG})."
        )
    if (path / peft.CONFIG).is_file():
        if step is not None:
            raise ValueError(f"{path} is a PEFT folder, which has no steps. Leave step out.")
        folder = peft.Folder(path)
        mark = files.sha256(path / peft.TENSORS)
        base = Base(folder.base)
        read = functools.cache(folder.read)
        return Adapters(path, folder.lora, None, base, 0, mark, read, folder.embedding)
    return _of_run(path, step)


def _of_run(path: Path, step: int | None) -> Adapters:
    values = files.read_json(path / CONFIG)
    meta = reader.read_meta(path / CHECKPOINTS, step)
    try:
        model: ModelConfig = load.from_dict(ModelConfig, values["model"], "model")
        config: LoraConfig = load.from_dict(LoraConfig, values["settings"]["lora"], "lora")
        base = Base(**meta["base"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path / CONFIG} does not describe adapters: {error}") from None

    @functools.cache
    def read(_: ModelConfig) -> dict[str, np.ndarray]:
        shapes = lora.divide(llama.abstract(model, ComputeConfig(), lora=config)[1])[0]
        params = reader.restore_params(path / CHECKPOINTS, shapes, meta["step"])[0]
        return {name: np.asarray(leaf) for name, leaf in tree.named_leaves(params).items()}

    mark = fingerprint_of(meta)
    return Adapters(path, config, model, base, meta["step"], mark, read)


def fingerprint_of(meta: dict[str, Any]) -> str:
    """Returns one fingerprint of all params of a checkpoint."""
    arrays = {name: a for name, a in meta["arrays"].items() if name.startswith("params/")}
    lines = (f"{name} {a['dtype']} {a['shape']} {a['fingerprint']}" for name, a in arrays.items())
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def merged(adapters: Adapters, params: Any, model: ModelConfig, shardings: Any) -> Any:
    """Returns whole parameters, of which `params` is the base, placed like `shardings`."""
    named = tree.named_leaves(params)
    where = tree.named_leaves(shardings) if shardings is not None else {}
    leaves = [
        merged_leaf(adapters, model, name, leaf, where.get(name)) for name, leaf in named.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def merged_leaf(
    adapters: Adapters, model: ModelConfig, name: str, base: Any, sharding: Any = None
) -> jax.Array:
    """Returns a parameter of the base as it was trained: quantized if it was, adapters added."""
    read, folder = adapters.read(model), f"{name.rpartition('/')[0]}/lora"
    # A bias lies beside its kernel, and has no adapter.
    is_matrix = name.endswith(("/kernel", "/embedding"))
    pair = [read[f"{folder}/{p}"] for p in "ab" if is_matrix and f"{folder}/{p}" in read]
    if not pair and not quantized.applies(adapters.lora, name):
        return base

    def make(base: jax.Array, *pair: jax.Array) -> jax.Array:
        if quantized.applies(adapters.lora, name):
            base = jax.lax.map(functools.partial(quantized.round_trip, adapters.lora, name), base)
        return lora.merged_leaf(name, base, *pair, scale=adapters.lora.scale) if pair else base

    return jax.jit(make, donate_argnums=0, out_shardings=sharding)(base, *pair)
