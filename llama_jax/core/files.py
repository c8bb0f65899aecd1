"""Files and folders that appear whole or not at all."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llama_jax.core.errors import DataError


@contextlib.contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Yields an empty sibling of `destination` that takes its name when the block succeeds.

    Every file is synced to disk before the rename; when the block fails the sibling is removed.

    Raises:
        ValueError: `destination` exists already.
    """
    destination = Path(destination)
    if destination.exists():
        raise ValueError(f"{destination} exists already. Choose another name, or remove it first.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    building = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.tmp"
    building.mkdir()
    try:
        yield building
        for path in [*building.rglob("*"), building]:
            _sync(path)
        building.rename(destination)
        _sync(destination.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, replacing the file at once."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: readers see the old file or the new one, never a part."""
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes what need not fit into memory to `path`, as `write_bytes` does."""
    building = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(building, "wb") as file:
            file.writelines(pieces)
        _sync(building)
        building.replace(path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """Returns the JSON value in `path`.

    Raises:
        DataError: The file is not JSON; the message names the file and the place.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable as JSON: {error}.") from None


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
