"""Writes tensors into safetensors shards, with an index if there is more than one.

model.safetensors                                   everything fits in one shard
model-00001-of-00003.safetensors ... index.json     it does not
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from llama_jax.converters.safetensors_reader import INDEX, SINGLE
from llama_jax.core import files

SHARD_BYTES = 5_000_000_000  # As transformers shards.
_METADATA = {"format": "pt"}  # transformers refuses files that do not say so.


def write(
    folder: Path, sizes: dict[str, int], read: Callable[[str], np.ndarray], shard_bytes: int
) -> None:
    """Writes the tensors that `sizes` names (with their bytes) in its order.

    Args:
        folder: Where to.
        sizes: Bytes of each tensor.
        read: Gives a tensor by name; one shard of them is in memory at a time.
        shard_bytes: Most bytes of a shard; a larger tensor has a shard of its own.
    """
    shards = plan(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if shards[1:] else SINGLE
        # Contiguous: the library writes the memory behind an array, strides or not.
        tensors = {name: np.ascontiguousarray(read(name)) for name in names}
        save_file(tensors, folder / file, metadata=_METADATA)
        weight_map |= dict.fromkeys(names, file)
    if shards[1:]:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        files.write_json(folder / INDEX, index)


def plan(sizes: dict[str, int], shard_bytes: int) -> list[list[str]]:
    """Returns the names of each shard: in order, as many as fit."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
