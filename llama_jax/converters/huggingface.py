"""Reads a Hugging Face folder into our parameters, and writes one from them.

Memory: reading holds the result, one stacked parameter (all its layers) and one tensor; writing
holds one stacked parameter and one shard.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.config.model import ModelConfig
from llama_jax.converters import huggingface_config, names, safetensors_writer
from llama_jax.converters.cast import DTYPES, cast
from llama_jax.converters.safetensors_reader import Reader
from llama_jax.core import files
from llama_jax.telemetry import progress

CONFIG = "config.json"
Json = dict[str, Any]
Place = Callable[[str, np.ndarray], jax.Array]


class Folder:
    """A Hugging Face folder that has been checked: its config.json and its tensors agree.

    Raises:
        DataError: They do not; the message names file and tensor or field.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.model, self.original = huggingface_config.read(self.path / CONFIG)
        self._reader = Reader(self.path)
        self._reader.check(self.model)
        self._tensors = {tensor.ours: tensor for tensor in names.tensors(self.model)}

    @property
    def dtype(self) -> str:
        """Returns the dtype of the tensors; float32, which holds them all, if they differ."""
        dtypes = self._reader.dtypes()
        return dtypes.pop() if len(dtypes) == 1 else "float32"

    @property
    def param_dtype(self) -> str:
        """Returns the dtype of ours that holds every tensor exactly."""
        return "bfloat16" if self.dtype == "bfloat16" else "float32"

    def read(self, name: str, dtype: str) -> np.ndarray:
        """Returns a tensor by its Hugging Face name."""
        return cast(self._reader.read(name), dtype, name)

    def params(self, dtype: str | None = None, place: Place | None = None) -> dict[str, Any]:
        """Returns our parameters, as nested dictionaries.

        Args:
            dtype: float32 or bfloat16; None takes the one that holds them exactly.
            place: Puts one named leaf on its devices; None puts it on the default device.

        Raises:
            ValueError: A value is beyond the range of `dtype`.
        """
        place = place or (lambda _, leaf: jnp.asarray(leaf))
        params: dict[str, Any] = {}
        for tensor in progress.counted(list(self._tensors.values()), "Reading weights"):
            _set(params, tensor.ours, place(tensor.ours, self.leaf(tensor.ours, dtype)))
        return params

    def leaf(self, name: str, dtype: str | None = None) -> np.ndarray:
        """Returns one of our parameters by name, its layers filled in one after the other.

        Raises:
            ValueError: A value is beyond the range of `dtype`.
        """
        tensor = self._tensors[name]
        dtype = dtype or self.param_dtype
        leaf = np.empty(tensor.shape, DTYPES[dtype])
        for layer, name in enumerate(tensor.names()):
            target = leaf[layer] if tensor.layers else leaf
            target[...] = tensor.to_ours(self.read(name, dtype))
        return leaf


def write(
    folder: Path,
    config: Json,
    model: ModelConfig,
    read: Callable[[str], np.ndarray],
    shard_bytes: int = safetensors_writer.SHARD_BYTES,
) -> None:
    """Writes config.json and the tensors that `read` gives by their Hugging Face names."""
    files.write_json(folder / CONFIG, config)
    itemsize = DTYPES[config["torch_dtype"]].itemsize
    # All layers of a parameter together: they are one array of ours, which is then read once.
    sizes = {
        name: math.prod(tensor.their_shape) * itemsize
        for tensor in names.tensors(model)
        for name in tensor.names()
    }
    with progress.bar("Writing weights", len(sizes)) as show:
        done = itertools.count(1)

        def counted(name: str) -> np.ndarray:
            show(next(done))
            return read(name)

        safetensors_writer.write(folder, sizes, counted, shard_bytes)


def reader_of(
    leaf_of: Callable[[str], Any], model: ModelConfig, dtype: str
) -> Callable[[str], np.ndarray]:
    """Returns a function that gives a tensor by its Hugging Face name, as `dtype`.

    `leaf_of` gives one of our parameters by name. It is asked once for each if the tensors are read
    in the order of `names.tensors`, and only the newest is kept.
    """
    places = {
        name: (tensor, layer)
        for tensor in names.tensors(model)
        for layer, name in enumerate(tensor.names())
    }
    newest: dict[str, Any] = {}

    def read(name: str) -> np.ndarray:
        tensor, layer = places[name]
        if tensor.ours not in newest:
            newest.clear()
            newest[tensor.ours] = leaf_of(tensor.ours)
        leaf = newest[tensor.ours]
        array = np.asarray(leaf[layer] if tensor.layers else leaf)
        return cast(tensor.to_theirs(array), dtype, name)

    return read


def _set(tree: dict[str, Any], name: str, leaf: Any) -> None:
    *parents, last = name.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = leaf
