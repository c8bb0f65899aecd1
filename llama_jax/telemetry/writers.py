"""Where numbers go: metrics.jsonl and TensorBoard always, Weights & Biases on request.

One writer serves a run that is stopped and continued many times: whatever an earlier process wrote
after the step at which this one continues is taken back first, so no step is there twice.
"""

import json
import math
import os
import time
import types
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import tensorboardX

from llama_jax.core import files
from llama_jax.core.errors import DataError

METRICS = "metrics.jsonl"


class Writer(Protocol):
    """Something that stores numbers by step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Stores the values of one step."""

    def close(self) -> None:
        """Writes everything out."""


class Writers:
    """All writers of a run as one.

    Args:
        workdir: The run directory.
        resumed: The step this process continues from; None starts the run anew.
        wandb_project: Also writes to this Weights & Biases project; "" does not.
        settings: Shown beside the run in Weights & Biases.
        enabled: False (every process but the first) writes nothing.

    Raises:
        ValueError: Weights & Biases is asked for and is not installed or has no key.
        DataError: metrics.jsonl of an earlier process is not readable.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        resumed: int | None,
        wandb_project: str = "",
        settings: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ):
        self._writers: list[Writer] = []
        if not enabled:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        if wandb_project:
            self._writers.append(WandbWriter(workdir, wandb_project, settings or {}))
        self._writers.append(JsonWriter(workdir / METRICS, resumed))
        self._writers.append(TensorBoardWriter(workdir / "tensorboard", resumed))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Stores the values of one step everywhere."""
        for writer in self._writers:
            writer.write(step, values)

    def close(self) -> None:
        """Writes everything out. More calls do nothing."""
        while self._writers:
            self._writers.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonWriter:
    """Appends {"step": ..., "time": unix seconds, name: number, ...}, one line per call.

    A number that is not finite is written as null: JSON has no word for it.
    """

    def __init__(self, path: Path, resumed: int | None):
        if path.exists():
            files.write_bytes(path, b"" if resumed is None else _lines_until(path, resumed))
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line; it is in the file when this returns."""
        row: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """TensorBoard event files; one more per process, the old ones stay."""

    def __init__(self, folder: Path, resumed: int | None):
        # Hides what an earlier process wrote at this step or later.
        purge = 0 if resumed is None else resumed + 1
        first = not folder.exists()
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=None if first else purge)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Queues one scalar per name; they reach the file within seconds."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes the queue out."""
        self._writer.close()


class WandbWriter:
    """Weights & Biases (pip install wandb); the key comes from the environment only.

    The run's id is kept in workdir/wandb.json, so a continued run goes on in the same place. Steps
    are an axis of their own: Weights & Biases drops values whose own step number goes back, as it
    does when a run continues from before its last logged step.
    """

    def __init__(self, workdir: Path, project: str, settings: Mapping[str, Any]):
        wandb = _import_wandb(project)
        path = workdir / "wandb.json"
        if not path.exists():
            files.write_json(path, {"id": uuid.uuid4().hex[:8]})
        identity = files.read_json(path)["id"]
        self._run = wandb.init(
            project=project,
            id=identity,
            resume="allow",
            dir=str(workdir),
            config=dict(settings),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of one step."""
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()


def _import_wandb(project: str) -> types.ModuleType:
    try:
        import wandb  # An optional extra: only runs that ask for it need it.
    except ImportError:
        raise ValueError(
            f"config.log.wandb_project is {project!r} but wandb is not installed. "
            "Type: pip install wandb"
        ) from None
    if "WANDB_API_KEY" not in os.environ and os.environ.get("WANDB_MODE") not in (
        "offline",
        "disabled",
    ):
        raise ValueError(
            f"config.log.wandb_project is {project!r} but the environment has no WANDB_API_KEY. "
            "Set it, or set WANDB_MODE=offline."
        )
    return wandb


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the lines of a metrics.jsonl with their numbers, from 1; a half last one is dropped.

    Raises:
        DataError: A line is no JSON object with a step.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # It is being written, or its writer was killed.
                return
            yield number, _row(path, number, line)


def _lines_until(path: Path, step: int) -> bytes:
    """Returns the lines of steps up to `step`; half a last line (a killed process) is dropped."""
    *lines, _ = path.read_bytes().split(b"\n")
    kept = [
        line for number, line in enumerate(lines, 1) if _row(path, number, line)["step"] <= step
    ]
    return b"".join(line + b"\n" for line in kept)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        step = row["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        step = None
    if type(step) is not int:
        raise DataError(
            f"{path}, line {number} is not a JSON object with a step. Remove the line or the file."
        )
    return row
