"""Saving and restoring a run: asynchronous, atomic, verified, and with a way back."""

import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn, Self

import jax
import orbax.checkpoint as ocp

from llama_jax.checkpoint import layout, reader, retention
from llama_jax.checkpoint.fingerprint import fingerprints
from llama_jax.config.train import CheckpointConfig
from llama_jax.core import tree
from llama_jax.core.errors import DataError
from llama_jax.core.tree import Tree
from llama_jax.distributed.processes import Alone, Processes, agreed

MEGABYTE = 2**20


class CheckpointManager:
    """The checkpoints of one run, which alone writes them (see lock.py).

    All processes of the run write arrays; process 0 alone renames, removes and decides.
    """

    def __init__(
        self, directory: Path, config: CheckpointConfig, processes: Processes | None = None
    ):
        self._directory = Path(directory).absolute()
        self._config = config
        self._processes = processes or Alone()
        self._is_first = self._processes.id == 0
        self._trash = retention.Trash(self._directory)
        self._saver = _make_saver()
        self._saving: int | None = None  # The step that is being written in the background.
        self._best = 0  # The step that is to stay once that is done; 0 is none.
        if self._is_first:
            self._clean_up()
        self.found = self._agreed("checkpoints at the start", self.steps())  # By all processes.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """The newest committed step, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    def steps(self) -> list[int]:
        """Returns the committed steps, oldest first."""
        return layout.steps(self._directory)

    def save(
        self, step: int, state: Tree, meta: dict[str, Any], wait: bool = False, best: int = 0
    ) -> None:
        """Starts to save `state` (arrays) and `meta` (JSON) as one unit.

        Once that is done step `best`, if it is not 0, stays however old it gets; the one that did
        so before may go. Returns when the arrays are copied to the host, so they may be donated at
        once. A save under way is finished first.

        Raises:
            ValueError: `step` is saved already.
            OSError: The disk is too full, or this or the previous save failed.
        """
        self.wait()
        path = layout.step_path(self._directory, step)
        if self._is_first:
            self._make_way(path)
            self._check_space(state)
        self._agreed(f"saving {step}", None)  # A folder that is in the way is gone for all.
        named = tree.named_leaves(state)
        record = layout.record(step, named, fingerprints(named), meta)
        items = {
            layout.STATE: ocp.args.PyTreeSave(layout.nested(named)),
            layout.META: ocp.args.JsonSave(record),
        }
        self._saving, self._best = step, best
        try:
            with jax.transfer_guard("allow"):  # Orbax copies to the host implicitly.
                self._saver.save(path, args=ocp.args.Composite(**items))
        except Exception as error:  # As in wait().
            self._fail(error)
        if wait:
            self.wait()

    def check(self) -> None:
        """Raises the error of the save under way, if it has failed. Cheap: call it every step."""
        if self._saving is None:
            return
        if layout.is_committed(layout.step_path(self._directory, self._saving)):
            self.wait()
            return
        try:
            self._saver.check_for_errors()
        except Exception as error:  # As in wait().
            self._fail(error)

    def wait(self) -> None:
        """Returns when the save under way is committed and old checkpoints are removed.

        Raises:
            OSError: It failed. Earlier checkpoints are intact and the next save can succeed.
        """
        if self._saving is None:
            return
        try:
            self._saver.wait_until_finished()
        # A full or broken disk surfaces as whatever Orbax and TensorStore make of it (OSError,
        # ValueError, XlaRuntimeError ...); for the run all of them mean that this save failed.
        except Exception as error:
            self._fail(error)
        self._saving = None
        if self._is_first:
            layout.write_best(self._directory, self._best)
            self._remove_old()

    def close(self) -> None:
        """Finishes the save under way and the deletions. Call it before the process ends."""
        try:
            self.wait()
        finally:
            self._saver.close()
            if self._is_first:
                self._trash.wait()

    def restore(self, abstract_state: Tree, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
        """Returns (state, meta) of `step`, or of the newest good checkpoint.

        `abstract_state` holds jax.ShapeDtypeStruct with shardings; any mesh will do. Without
        `step`, newer checkpoints that are damaged are renamed to `<step>.corrupt-<time>` once a
        good one is found; if none is found, nothing is touched.

        Raises:
            ValueError: No such checkpoint, or its arrays have other names, shapes or dtypes.
            DataError: `step` is damaged.
            OSError: More than `max_fallback` checkpoints, or all, are damaged.
        """
        self.wait()
        if step is not None:
            return self._read(reader.choose(self._directory, step), abstract_state)
        there = self._agreed("steps to restore", self.steps())
        if not there:
            raise ValueError(f"{self._directory} holds no checkpoint.")
        steps = there[::-1][: self._config.max_fallback + 1]
        damage: dict[int, str] = {}
        for candidate in steps:
            try:
                result = self._read(candidate, abstract_state)
            except DataError as error:
                damage[candidate] = str(error)
                continue
            if self._is_first:
                self._set_aside(damage, candidate)
            return result
        raise OSError(
            f"{self._directory} holds no good checkpoint among the newest {len(steps)} of "
            f"{len(there)}; nothing was changed. {' '.join(damage.values())}"
        )

    def _read(self, step: int, abstract_state: Tree) -> tuple[Tree, dict[str, Any]]:
        return reader.restore_step(
            self._directory, step, abstract_state, self._config.verify, processes=self._processes
        )

    def _agreed(self, what: str, value: Any) -> Any:
        """Returns what process 0 says."""
        return agreed(self._processes, what, value)

    def _set_aside(self, damage: dict[int, str], good: int) -> None:
        # Only now: had every one been renamed, the next start would find none and begin anew.
        for step, reason in damage.items():
            path = layout.set_aside(layout.step_path(self._directory, step))
            _warn(f"{reason} It is kept as {path.name}; continuing from step {good}.")

    def _clean_up(self) -> None:
        """Removes what a crash left; sets aside what only looks like a checkpoint."""
        for path in layout.uncommitted(self._directory):
            if layout.is_interrupted(path):
                self._trash.add(path)
            else:
                aside = layout.set_aside(path)
                _warn(f"{path} has no {layout.COMMIT_FILE}. It is kept as {aside.name}.")
        self._remove_old()

    def _remove_old(self) -> None:
        keep = self._config.keep_last, self._config.keep_every, layout.best(self._directory)
        for step in retention.surplus(self.steps(), *keep):
            self._trash.add(layout.step_path(self._directory, step))
        self._trash.empty()

    def _make_way(self, path: Path) -> None:
        if layout.is_committed(path):
            raise ValueError(f"{path} exists already; a checkpoint is never overwritten.")
        if path.exists() or path.is_symlink():
            aside = layout.set_aside(path)
            _warn(f"{path} is not a checkpoint. It is kept as {aside.name}.")

    def _check_space(self, state: Tree) -> None:
        if self.latest is None:
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        else:  # Twice: the new one is written beside all old ones, and may compress less well.
            needed = 2 * layout.size(layout.step_path(self._directory, self.latest))
        if shutil.disk_usage(self._directory).free < needed:
            self._trash.wait()
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise OSError(
                f"{self._directory} has {free / MEGABYTE:,.1f} MiB free; a checkpoint needs about "
                f"{needed / MEGABYTE:,.1f} MiB. Free some space, or lower checkpoint.keep_last. "
                f"{self._intact()}"
            )

    def _fail(self, error: Exception) -> NoReturn:
        """Forgets the failed save, so that the next one can succeed, and tells of it."""
        step, self._saving = self._saving, None
        assert step is not None
        path = layout.step_path(self._directory, step)
        self._saver = _make_saver()
        if self._is_first and path.exists():
            self._trash.add(path)
            self._trash.empty()
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"{path} could not be saved ({type(error).__name__}: {reason}). {self._intact()}"
        ) from error

    def _intact(self) -> str:
        steps = ", ".join(map(str, self.steps()))
        return f"Earlier checkpoints are intact: {steps}." if steps else "There is none yet."


def _make_saver() -> ocp.AsyncCheckpointer:
    handlers = {
        layout.STATE: ocp.PyTreeCheckpointHandler(),
        layout.META: ocp.JsonCheckpointHandler(),
    }
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(**handlers),
        # Otherwise a folder that cannot be made shows only when every writer has waited for it
        # in vain: on a full disk after 5 minutes.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
    )


def _warn(sentence: str) -> None:
    print(f"checkpoint: {sentence}", file=sys.stderr, flush=True)
