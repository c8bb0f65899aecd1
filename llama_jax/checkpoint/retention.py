"""Removing old checkpoints so that a crash at any moment leaves only whole ones."""

import shutil
import threading
import uuid
from pathlib import Path

from llama_jax.checkpoint import layout


def surplus(steps: list[int], keep_last: int, keep_every: int, best: int = 0) -> list[int]:
    """Returns the steps to remove: none of the newest, of multiples of `keep_every`, not `best`."""
    old = sorted(steps)[:-keep_last]
    return [step for step in old if step != best and (not keep_every or step % keep_every)]


class Trash:
    """Removes folders in two moves: an atomic rename now, deletion in the background.

    A folder that is half deleted still looks like a checkpoint; one in the trash does not.
    """

    def __init__(self, directory: Path):
        self._path = directory / layout.TRASH
        self._path.mkdir(parents=True, exist_ok=True)
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        """Moves `path` into the trash; it is gone from its place when this returns."""
        path.rename(self._path / f"{path.name}-{uuid.uuid4().hex[:8]}")

    def empty(self) -> None:
        """Starts deleting what is in the trash, unless that is under way already."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._delete, name="trash", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Returns when all that was in the trash is deleted."""
        if self._thread is not None:
            self._thread.join()
        self._delete()

    def _delete(self) -> None:
        for path in self._path.iterdir():
            # What cannot be deleted now stays here and is tried again at the next start.
            shutil.rmtree(path, ignore_errors=True)
