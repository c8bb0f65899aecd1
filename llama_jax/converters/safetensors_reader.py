"""Reads a folder of safetensors, whole or in shards, one tensor at a time. The bytes are untrusted.

Format: https://github.com/safetensors/safetensors#format. The library checks each file (header
size, holes, overlaps, length); the index that names the shards, and whether the tensors are the
model's, is checked here. Nothing outside the folder is read, and nothing is allocated for a tensor
before its file has been seen to hold it.
"""

import contextlib
import dataclasses
import math
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from llama_jax.config.model import ModelConfig
from llama_jax.converters import names
from llama_jax.core import files
from llama_jax.core.errors import DataError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# A name alone: '../x', '/etc/x' and 'a/x' would lead out of the folder.
_SHARD_NAME = re.compile(r"[^/\\\0]+\.safetensors")
MAX_INDEX_BYTES = 100 * 1024 * 1024  # As large as a header may be.


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor is, and what its file says about it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # float32, bfloat16, float16; another one as the file spells it

    @property
    def nbytes(self) -> int:
        """Returns its size, if its dtype is one of ours."""
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)


class Reader:
    """The tensors of a Hugging Face folder by name. Opening reads headers only."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        index = self.folder / INDEX
        if index.exists():
            self.places = _read_shards(index)
        elif (self.folder / SINGLE).exists():
            self.places = header(self.folder / SINGLE)
        else:
            raise DataError(
                f"{self.folder} holds neither {SINGLE} nor {INDEX}. Other weight files "
                "(pytorch_model.bin) must first be saved as safetensors by transformers."
            )

    def check(self, config: ModelConfig) -> None:
        """Checks that the folder holds exactly the tensors of this model.

        Raises:
            DataError: A tensor is missing, surplus, misshapen or of a dtype that is not a float of
                16 or 32 bits; the message names it and its file.
        """
        expected = set()
        for tensor in names.tensors(config):
            for name in tensor.names():  # Stops at the first that is missing, however many.
                self._check_tensor(name, tensor.their_shape)
                expected.add(name)
        for name, place in self.places.items():
            if name not in expected and not names.is_ignored(name, config):
                raise DataError(
                    f"{place.file} holds {name}, which a model of this config.json does not have."
                )

    def dtypes(self) -> set[str]:
        """Returns the dtypes in which the tensors are stored."""
        return {place.dtype for name, place in self.places.items() if ".rotary_emb." not in name}

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor, in memory of its own."""
        return read(self.places[name], name)

    def _check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        place = self.places.get(name)
        if place is None:
            raise DataError(f"{self.folder} lacks the tensor {name}, which its config.json needs.")
        if place.shape != shape:
            raise DataError(
                f"{place.file}: {name} has shape {list(place.shape)}; by config.json it must be "
                f"{list(shape)}."
            )
        if place.dtype not in DTYPES.values():
            raise DataError(
                f"{place.file}: {name} is stored as {place.dtype}; it must be one of "
                f"{', '.join(DTYPES)}."
            )


def read(place: Place, name: str) -> np.ndarray:
    """Returns one tensor, in memory of its own."""
    with _open(place.file) as file:
        return file.get_tensor(name)


def _read_shards(index: Path) -> dict[str, Place]:
    """Returns the tensors of all shards that the index names, which must say what they hold."""
    weight_map, total_size = _read_index(index)
    places: dict[str, Place] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if not path.is_file():
            raise DataError(f"{index} names the shard {shard}, which is not in the folder.")
        for name, place in header(path).items():
            if name in places:
                raise DataError(f"{name} is in two shards: {places[name].file} and {path}.")
            if weight_map.get(name) != shard:
                said = f"in {weight_map[name]}" if name in weight_map else "nowhere"
                raise DataError(f"{path} holds {name}, which {index.name} lists {said}.")
            places[name] = place
    for name, shard in weight_map.items():
        if name not in places:
            raise DataError(f"{index} lists {name} in {shard}, which does not hold it.")
    size = sum(place.nbytes for place in places.values())
    if total_size is not None and total_size != size and _all_ours(places):
        raise DataError(f"{index}: total_size is {total_size}, but its shards hold {size} bytes.")
    return places


def _all_ours(places: dict[str, Place]) -> bool:
    return all(place.dtype in DTYPES.values() for place in places.values())


def _read_index(index: Path) -> tuple[dict[str, str], int | None]:
    """Returns the shard of each tensor, and the number of bytes of all of them if it is said."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise DataError(
            f"{index} has {index.stat().st_size} bytes; an index has at most {MAX_INDEX_BYTES}."
        )
    value = files.read_json(index)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{index} has no weight_map, the object of tensor names and their shards.")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise DataError(
                f"{index}: {name} is in {shard!r:.80}; it must be a .safetensors file of this "
                "folder."
            )
    metadata = value.get("metadata")
    return weight_map, metadata.get("total_size") if isinstance(metadata, dict) else None


def header(path: Path) -> dict[str, Place]:
    """Returns the tensors that a file says it holds.

    Raises:
        DataError: It is not a whole safetensors file.
    """
    with _open(path) as file:
        places = {}
        for name in file.keys():  # noqa: SIM118 (safe_open cannot be iterated)
            part = file.get_slice(name)
            dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
            places[name] = Place(path, tuple(part.get_shape()), dtype)
        return places


@contextlib.contextmanager
def _open(path: Path):
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}.") from None
