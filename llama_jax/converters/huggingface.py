"""Reads a Hugging Face folder into our parameters, and writes one from them.

Memory: reading holds the result, this process's parts of one stacked parameter (all its layers) and
one tensor; writing holds one stacked parameter and one shard.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
THREADS = 8  # That read and hash; each holds one tensor.
Json = dict[str, Any]
Index = tuple[slice, ...]


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

    def fingerprint(self) -> str:
        """Returns the SHA-256 of every tensor's name, dtype, shape and bytes, whatever its file."""

        def line(name: str) -> str:
            array = self._reader.read(name)
            digest = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()
            return f"{name} {array.dtype} {array.shape} {digest}"

        wanted = sorted(name for tensor in self._tensors.values() for name in tensor.names())
        total = hashlib.sha256()
        # hashlib lets other threads run.
        with ThreadPoolExecutor(THREADS) as pool, progress.bar("Hashing", len(wanted)) as show:
            for done, found in enumerate(pool.map(line, wanted), 1):
                total.update(found.encode() + b"\n")
                show(done)
        return total.hexdigest()

    def params(
        self, dtype: str | None = None, shardings: Mapping[str, jax.sharding.Sharding] | None = None
    ) -> dict[str, Any]:
        """Returns our parameters, as nested dictionaries.

        Args:
            dtype: float32 or bfloat16; None takes the one that holds them exactly.
            shardings: Of each parameter by name; None puts all on the default device.

        Raises:
            ValueError: A value is beyond the range of `dtype`.
        """
        params: dict[str, Any] = {}
        for name in progress.counted(list(self._tensors), "Reading weights"):
            if shardings is None:
                _set(params, name, jnp.asarray(self.leaf(name, dtype)))
            else:
                _set(params, name, self._placed(name, dtype, shardings[name]))
        return params

    def leaf(self, name: str, dtype: str | None = None) -> np.ndarray:
        """Returns one of our parameters by name, its layers filled in one after the other.

        Raises:
            ValueError: A value is beyond the range of `dtype`.
        """
        whole = tuple(slice(0, size) for size in self._tensors[name].shape)
        return self._parts(name, dtype, [whole])[0]

    def layers(self, name: str, dtype: str | None = None) -> Iterator[np.ndarray]:
        """Yields one of our parameters a layer at a time."""
        tensor = self._tensors[name]
        for theirs in tensor.names():
            yield tensor.to_ours(self.read(theirs, dtype or self.param_dtype))

    def _placed(self, name: str, dtype: str | None, sharding: jax.sharding.Sharding) -> jax.Array:
        """Returns one of our parameters; this process reads what its own devices hold of it."""
        shape = self._tensors[name].shape
        found = sharding.addressable_devices_indices_map(shape)
        where = {device: _bounded(index, shape) for device, index in found.items()}
        indices = list({_key(index): index for index in where.values()}.values())
        parts = dict(zip(map(_key, indices), self._parts(name, dtype, indices), strict=True))
        arrays = [jax.device_put(parts[_key(index)], device) for device, index in where.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, arrays)

    def _parts(self, name: str, dtype: str | None, indices: list[Index]) -> list[np.ndarray]:
        """Returns the parts of one of our parameters; every tensor is read once."""
        tensor = self._tensors[name]
        dtype = dtype or self.param_dtype
        shapes = [[part.stop - part.start for part in index] for index in indices]
        parts = [np.empty(shape, DTYPES[dtype]) for shape in shapes]
        for layer, name in enumerate(tensor.names()):
            ours = tensor.to_ours(self.read(name, dtype))
            for index, part in zip(indices, parts, strict=True):
                if not tensor.layers:
                    part[...] = ours[index]
                elif index[0].start <= layer < index[0].stop:
                    part[layer - index[0].start] = ours[index[1:]]
        return parts


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


def _bounded(index: Index | None, shape: tuple[int, ...]) -> Index:
    """Returns the index with both ends of every slice; None is all."""
    index = index or (slice(None),) * len(shape)
    return tuple(slice(*part.indices(n)[:2]) for part, n in zip(index, shape, strict=True))


def _key(index: Index) -> tuple[tuple[int, int], ...]:
    return tuple((part.start, part.stop) for part in index)


def _set(tree: dict[str, Any], name: str, leaf: Any) -> None:
    *parents, last = name.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = leaf
