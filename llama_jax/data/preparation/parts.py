"""The files of a recipe -> parts: runs of files of one source.

Which files are in a part depends on their sizes alone, never on how many workers there are, and
nothing is decided by order: so any number of workers, started any number of times, makes the same
bytes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_jax.config import load
from llama_jax.config.prepare import PrepareConfig
from llama_jax.data.sources import files as source_files
from llama_jax.data.sources.document import Document


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the work: some files of one source."""

    source: str  # Its name in the recipe.
    rank: int  # Among the parts of this source.
    files: tuple[Path, ...]


def parts_of(config: PrepareConfig) -> list[Part]:
    """Returns the parts of all sources, in the order of names.

    Raises:
        ValueError: A source does not exist.
    """
    size = config.executor.part_megabytes * 1e6
    return [
        Part(name, rank, group)
        for name, source in sorted(config.sources.items())
        for rank, group in enumerate(_groups(source_files.list_files(source), size))
    ]


def _groups(paths: list[Path], size: float) -> Iterator[tuple[Path, ...]]:
    group, total = [], 0
    for path in paths:
        group.append(path)
        total += path.stat().st_size
        if total >= size:
            yield tuple(group)
            group, total = [], 0
    if group:
        yield tuple(group)


def digest(parts: Sequence[Part], config: PrepareConfig, *more: str) -> str:
    """Returns a hash of what decides parts: settings, names, sizes and times of the files."""
    settings = recipe(config)
    for source in settings["sources"].values():
        del source["documents"]  # How many of them are written is decided when they are merged.
    stats = [(part.source, str(path), path.stat()) for part in parts for path in part.files]
    found = [[source, name, stat.st_size, stat.st_mtime_ns] for source, name, stat in stats]
    content = json.dumps([settings, found, *more])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def recipe(config: PrepareConfig) -> dict[str, Any]:
    """Returns the settings that decide what is written, whoever does the work, wherever it goes."""
    settings = load.as_dict(config)
    del settings["output"], settings["executor"]
    return settings


def is_held_out(document: Document, config: PrepareConfig) -> bool:
    """True for the documents that training never sees."""
    return uniform(config.seed, "held out", document.name) < config.held_out


def uniform(seed: int, purpose: str, name: str) -> float:
    """Returns a number in [0, 1) that depends on nothing but the arguments."""
    content = f"{seed}/{purpose}/{name}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48
