"""What a directory of checkpoints contains.

checkpoints/
  1000/                      a committed step
    state/                   arrays (Orbax, OCDBT), named as nested dictionaries
    meta/metadata            JSON: {"sha256": of content, "content": {...}}, see `record`
    _CHECKPOINT_METADATA     Orbax: when it began and when it was committed
    commit_success.txt       written last: without it nobody believes the directory
  best.json                  {"step": ...}: stays however old it gets; absent if none does
  1500.corrupt-<time>/       found bad at restore and set aside; never deleted
  .trash/                    renamed here first, then deleted in the background
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from llama_jax.core import files
from llama_jax.core.errors import DataError

FORMAT = 1
STATE = "state"
META = "meta"
META_FILE = "metadata"
COMMIT_FILE = "commit_success.txt"
ORBAX_FILE = "_CHECKPOINT_METADATA"
TRASH = ".trash"
BEST = "best.json"
STEP_NAME = re.compile(r"0|[1-9][0-9]{0,17}")
RESERVED = ("format", "step", "arrays")


def step_path(directory: Path, step: int) -> Path:
    """Returns where the checkpoint of `step` is."""
    return directory / str(step)


def steps(directory: Path) -> list[int]:
    """Returns the committed steps, oldest first. Strays (files, links, no commit) do not count."""
    return sorted(int(path.name) for path in _step_folders(directory) if is_committed(path))


def uncommitted(directory: Path) -> list[Path]:
    """Returns the folders that are named like a step but were never committed."""
    return sorted(path for path in _step_folders(directory) if not is_committed(path))


def is_committed(path: Path) -> bool:
    """True once every byte of the checkpoint has been written."""
    return (path / COMMIT_FILE).is_file()


def is_interrupted(path: Path) -> bool:
    """True if `path` can only be a save that was cut short: so, and only so, may it be deleted."""
    if not any(path.iterdir()):
        return True
    try:
        metadata = json.loads((path / ORBAX_FILE).read_bytes())
    except OSError:
        return False
    except ValueError:  # Cut short while this file was being written.
        return True
    return isinstance(metadata, dict) and not metadata.get("commit_timestamp_nsecs")


def best(directory: Path) -> int:
    """Returns the step that stays however old it gets; 0 if there is none."""
    path = directory / BEST
    found = files.read_json(path) if path.is_file() else {}
    return found["step"] if isinstance(found, dict) and type(found.get("step")) is int else 0


def write_best(directory: Path, step: int) -> None:
    """Says which step stays; 0 changes nothing."""
    if step and step != best(directory):
        files.write_json(directory / BEST, {"step": step})


def set_aside(path: Path) -> Path:
    """Renames `path` to `<name>.corrupt-<time>` beside it and returns the new path."""
    now = datetime.datetime.now(datetime.UTC)
    return path.rename(path.with_name(f"{path.name}.corrupt-{now:%Y%m%dT%H%M%S.%f}"))


def record(
    step: int,
    arrays: Mapping[str, jax.Array | jax.ShapeDtypeStruct],
    fingerprints: Mapping[str, str],
    meta: dict,
) -> dict[str, Any]:
    """Returns the JSON value stored beside the arrays: the caller's `meta` and what they are."""
    taken = sorted(set(meta) & set(RESERVED))
    assert not taken, f"meta may not use the keys {taken}"
    described = {
        name: {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "fingerprint": fingerprints[name],
        }
        for name, array in arrays.items()
    }
    content = {**meta, "format": FORMAT, "step": step, "arrays": described}
    content = json.loads(json.dumps(content))  # As it will be read: lists, and words as keys.
    return {"sha256": _digest(content), "content": content}


def read_record(directory: Path, step: int) -> dict[str, Any]:
    """Returns the content of a step's record.

    Raises:
        DataError: The file is missing, unreadable, or its checksum differs.
        ValueError: It was written in a newer format.
    """
    path = step_path(directory, step) / META / META_FILE
    try:
        stored = files.read_json(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    content = stored.get("content") if isinstance(stored, dict) else None
    if not isinstance(content, dict) or stored.get("sha256") != _digest(content):
        raise DataError(f"{path} is damaged: its content differs from its checksum.")
    if content["format"] > FORMAT:
        raise ValueError(
            f"{path} is in checkpoint format {content['format']}; this program reads formats up "
            f"to {FORMAT}. Use the version of llama_jax that wrote it, or a newer one."
        )
    if content["step"] != step:
        raise DataError(f"{path} belongs to step {content['step']}, not to step {step}.")
    return content


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {'a/b': x} as {'a': {'b': x}}: the stored tree needs no Python class to be read."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        folder = tree
        for word in parents:
            folder = folder.setdefault(word, {})
        folder[last] = leaf
    return tree


def size(path: Path) -> int:
    """Returns the bytes of all files below `path`."""
    return sum(entry.lstat().st_size for entry in path.rglob("*"))


def _step_folders(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return [
        path
        for path in directory.iterdir()
        if STEP_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
