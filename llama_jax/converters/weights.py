"""Weights from wherever they are: a run directory, a converted folder, a Hugging Face folder."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.checkpoint import reader
from llama_jax.config import load
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import adapters
from llama_jax.converters.adapters import CHECKPOINTS, CONFIG, Adapters
from llama_jax.converters.cast import cast
from llama_jax.converters.huggingface import Folder
from llama_jax.core import files, tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama

TOKENIZER = "tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
# What makes weights those of another model; vocab may grow at the start of a run.
SHAPE = (
    "layers",
    "embed",
    "mlp",
    "heads",
    "kv_heads",
    "head_dim",
    "tie_embeddings",
    "attention_bias",
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A checked folder of weights; `read` brings them into memory."""

    path: Path
    model: ModelConfig
    dtype: str  # As stored: float32 or bfloat16 (float16 counts as float32, which holds it).
    step: int  # 0 for a Hugging Face folder.
    tokenizer: Path | None  # Where its tokenizer is, if it brings one.
    huggingface: Folder | None = None  # None for our own layout.
    base: "Weights | None" = None  # What the adapters adapt; then all others are of the result.
    adapters: Adapters | None = None

    @property
    def origin(self) -> "Weights":
        """Returns the whole weights that are there, below all adapters."""
        return self if self.base is None else self.base.origin

    def read(self, dtype: str | None = None, shardings: Any = None) -> llama.Params:
        """Returns the parameters, adapters merged into their base.

        Args:
            dtype: float32 or bfloat16; None keeps the stored one.
            shardings: A tree like the parameters; None puts all on the first device.

        Raises:
            ValueError: `dtype` would round what is stored.
            DataError: The weights are damaged.
        """
        dtype = dtype or self.dtype
        self.refuse_rounding(dtype)
        if self.base is not None and self.adapters is not None:
            params = self.base.read(dtype, shardings)
            return adapters.merged(self.adapters, params, self.model, shardings)
        if self.huggingface is not None:
            return self._read_huggingface(self.huggingface, dtype, shardings)
        return self._read_ours(dtype, shardings)

    def refuse_rounding(self, dtype: str) -> None:
        """Refuses a dtype that holds less than the stored one.

        Raises:
            ValueError: See above; the message says how to round on purpose.
        """
        if (self.dtype, dtype) == ("float32", "bfloat16"):
            raise ValueError(
                f"{self.path} holds float32 weights (or float16) and bfloat16 was asked for, "
                f"which would round them. Ask for float32, or round them on purpose: python -m "
                f"llama_jax.convert {self.path} DST --format=orbax --dtype=bfloat16"
            )

    def rounded(self, dtype: str) -> llama.Params:
        """Returns the parameters in a dtype, rounded if it holds less than the stored one."""
        if self.huggingface is not None:
            return self.huggingface.params(dtype)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self.read())

    def leaf(self, name: str, dtype: str | None = None) -> np.ndarray:
        """Returns one parameter, adapters merged; the others stay on the disk.

        Raises:
            ValueError: A value is beyond the range of `dtype`.
        """
        if self.huggingface is not None:
            return self.huggingface.leaf(name, dtype or self.dtype)
        stored = self._merged_leaf(name) if self.adapters is not None else self._stored_leaf(name)
        return cast(stored, dtype or self.dtype, name)

    def layers(self, name: str) -> Iterator[np.ndarray]:
        """Yields one parameter of the layers, as stored, a layer at a time.

        Of a Hugging Face folder one layer is in memory, of anything else all of them.
        """
        if self.huggingface is not None:
            return self.huggingface.layers(name, self.dtype)
        return iter(self.leaf(name))

    def fingerprint(self) -> str:
        """Returns 64 hexadecimal digits of the content: of every tensor, wherever it lies."""
        if self.base is not None and self.adapters is not None:
            both = self.base.fingerprint() + self.adapters.fingerprint
            return hashlib.sha256(both.encode()).hexdigest()
        if self.huggingface is not None:
            return self.huggingface.fingerprint()
        return adapters.fingerprint_of(reader.read_meta(self.path / CHECKPOINTS, self.step))

    def _stored_leaf(self, name: str) -> np.ndarray:
        stored = ComputeConfig(param_dtype=self.dtype)  # type: ignore[arg-type]
        shapes = tree.named_leaves(llama.abstract(self.model, stored)[1])
        return np.asarray(
            reader.restore_param(self.path / CHECKPOINTS, name, shapes[name], self.step)
        )

    def _merged_leaf(self, name: str) -> np.ndarray:
        assert self.base is not None and self.adapters is not None
        return np.asarray(
            adapters.merged_leaf(self.adapters, self.model, name, self.base.leaf(name))
        )

    def _read_huggingface(self, folder: Folder, dtype: str, shardings: Any) -> llama.Params:
        return folder.params(dtype, None if shardings is None else tree.named_leaves(shardings))

    def _read_ours(self, dtype: str, shardings: Any) -> llama.Params:
        stored = ComputeConfig(param_dtype=self.dtype)  # type: ignore[arg-type]
        _, shapes = llama.abstract(self.model, stored)
        if shardings is not None:
            shapes = jax.tree.map(
                lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
                shapes,
                shardings,
            )
        params, _ = reader.restore_params(self.path / CHECKPOINTS, shapes, self.step)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), params)


def find(path: str | Path, step: int | None = None, adapter: str | os.PathLike = "") -> Weights:
    """Returns what is at `path` after checking its shape; reads no weights yet.

    Args:
        path: A run directory, a converted folder, a Hugging Face folder; or adapters, whose base
            is then looked for where they say it is, and must not have changed.
        step: Of a run directory; None is the newest.
        adapter: A run of adapters or a PEFT folder, to merge into what is at `path`.

    Raises:
        ValueError: There is nothing of the kind, or no such step.
        DataError: A file in it is damaged.
    """
    path = Path(path)
    if adapter:
        return _adapted(find(path, step), adapters.find(Path(adapter)))
    if adapters.are_in(path):
        found = adapters.find(path, step)
        return _adapted(_base_of(found), found)
    if not (path / CONFIG).is_file():
        raise ValueError(
            f"{path} holds no {CONFIG}. Name a run directory, a folder that llama_jax.convert "
            "wrote, or a Hugging Face folder."
        )
    values = files.read_json(path / CONFIG)
    if isinstance(values, dict) and "model" in values:
        return _find_ours(path, values["model"], step)
    if step is not None:
        raise ValueError(f"{path} is a Hugging Face folder, which has no steps. Leave step out.")
    folder = Folder(path)
    return Weights(path, folder.model, folder.param_dtype, 0, _tokenizer(path), folder)


def _base_of(found: Adapters) -> Weights:
    """Returns the base of adapters, where they say it is.

    Raises:
        ValueError: It is not there, or has changed since the adapters were trained.
    """
    said = found.base
    if not said.path or not Path(said.path).is_dir():
        raise ValueError(
            f"{found.path} holds adapters, and their base is "
            f"{f'not at {said.path}' if said.path else 'not named there'}. Name the base, and "
            f"{found.path} as the adapter."
        )
    base = find(said.path, said.step or None)
    if said.fingerprint and base.fingerprint() != said.fingerprint:
        raise ValueError(
            f"{said.path} has changed since {found.path} was trained on it: its fingerprint is "
            "another. Bring the old weights back, or name a base, and the adapters as its adapter."
        )
    return base


def _adapted(base: Weights, found: Adapters) -> Weights:
    model = found.model or base.model
    check_same_shape(base.model, model, f"the adapters at {found.path}", f"the base {base.path}")
    copy = found.embedding()
    if copy is not None and not np.array_equal(copy, base.leaf("embed/embedding")):
        raise DataError(
            f"{found.path} holds an embedding of its own that is not that of {base.path}; only "
            "adapters are read here."
        )
    found.read(model)  # A tensor that does not fit is told of now.
    tokenizer = _tokenizer(found.path / TOKENIZER) or base.tokenizer
    return Weights(found.path, model, base.dtype, found.step, tokenizer, base=base, adapters=found)


def check_same_shape(stored: ModelConfig, model: ModelConfig, what: str, where: str) -> None:
    """Refuses two models whose parameters have other shapes.

    Raises:
        ValueError: See above; the message names the setting.
    """
    for name in (*SHAPE, "vocab"):
        have, want = getattr(stored, name), getattr(model, name)
        if have != want:
            raise ValueError(f"{what} are for a model with {name} {want}, but {where} has {have}.")


def _find_ours(path: Path, model: Any, step: int | None) -> Weights:
    try:
        config = load.from_dict(ModelConfig, model, "model")
    except (ValueError, TypeError) as error:
        raise DataError(f"{path / CONFIG} does not describe a model: {error}") from None
    meta = reader.read_meta(path / CHECKPOINTS, step)
    dtype = meta["arrays"]["params/norm/scale"]["dtype"]
    return Weights(path, config, dtype, meta["step"], _tokenizer(path / TOKENIZER))


def _tokenizer(folder: Path) -> Path | None:
    return folder if any((folder / name).is_file() for name in TOKENIZER_FILES) else None
