"""Weights from wherever they are: a run directory, a converted folder, a Hugging Face folder."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.checkpoint import reader
from llama_jax.config import load
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters.huggingface import Folder
from llama_jax.core import files, tree
from llama_jax.core.errors import DataError
from llama_jax.model import llama

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A checked folder of weights; `read` brings them into memory."""

    path: Path
    model: ModelConfig
    dtype: str  # As stored: float32 or bfloat16 (float16 counts as float32, which holds it).
    step: int  # 0 for a Hugging Face folder.
    tokenizer: Path | None  # Where its tokenizer is, if it brings one.
    huggingface: Folder | None  # None for our own layout.

    def read(self, dtype: str | None = None, shardings: Any = None) -> llama.Params:
        """Returns the parameters.

        Args:
            dtype: float32 or bfloat16; None keeps the stored one.
            shardings: A tree like the parameters; None puts all on the first device.

        Raises:
            ValueError: `dtype` would round what is stored.
            DataError: The weights are damaged.
        """
        dtype = dtype or self.dtype
        if (self.dtype, dtype) == ("float32", "bfloat16"):
            raise ValueError(
                f"{self.path} holds float32 weights (or float16) and bfloat16 was asked for, "
                f"which would round them. Ask for float32, or round them on purpose: python -m "
                f"llama_jax.convert {self.path} DST --format=orbax --dtype=bfloat16"
            )
        if self.huggingface is not None:
            return self._read_huggingface(self.huggingface, dtype, shardings)
        return self._read_ours(dtype, shardings)

    def leaf(self, name: str) -> np.ndarray:
        """Returns one parameter of our own layout, as stored; the others stay on the disk."""
        assert self.huggingface is None
        stored = ComputeConfig(param_dtype=self.dtype)  # type: ignore[arg-type]
        shapes = tree.named_leaves(llama.abstract(self.model, stored)[1])
        return np.asarray(
            reader.restore_param(self.path / CHECKPOINTS, name, shapes[name], self.step)
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


def find(path: str | Path, step: int | None = None) -> Weights:
    """Returns what is at `path` after checking its shape; reads no weights yet.

    Args:
        path: A run directory, a converted folder, or a Hugging Face folder.
        step: Of a run directory; None is the newest.

    Raises:
        ValueError: There is nothing of the kind, or no such step.
        DataError: A file in it is damaged.
    """
    path = Path(path)
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


def _find_ours(path: Path, model: Any, step: int | None) -> Weights:
    try:
        config = load.from_dict(ModelConfig, model, "model")
    except (ValueError, TypeError) as error:
        raise DataError(f"{path / CONFIG} does not describe a model: {error}") from None
    meta = reader.read_meta(path / CHECKPOINTS, step)
    dtype = meta["arrays"]["params/norm/scale"]["dtype"]
    return Weights(path, config, dtype, meta["step"], _tokenizer(path / TOKENIZER), None)


def _tokenizer(folder: Path) -> Path | None:
    return folder if any((folder / name).is_file() for name in TOKENIZER_FILES) else None
