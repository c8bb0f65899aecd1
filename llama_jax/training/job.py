"""A run directory as the record of a fine-tuning job, in the shape that hosted services give one.

Nothing is written for it: every field is derived from what a run leaves behind.

    config.json       settings, commit; written at each start
    .lock             who owns it: a process that lives is running
    metrics.jsonl     steps, tokens, epochs, by time
    checkpoints/      what was saved when, and what was set aside as damaged
"""

import datetime
import json
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from llama_jax.checkpoint import layout, lock
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.telemetry import writers
from llama_jax.telemetry.writers import METRICS
from llama_jax.training.directory import CONFIG

Status = Literal["pending", "running", "completed", "stopped"]
Row = dict[str, Any]

# A run on another host cannot be looked at. After this long (seconds) without a sign of life its
# watchdog would have ended it.
SILENCE = 3600.0
EPOCHS = "data/epochs/"
TOKENS = "data/tokens_seen"


def find(folder: Path) -> list[Path]:
    """Returns the run directories in a folder, or itself if it is one, by name."""
    found = []
    for place, inner, _ in os.walk(folder):
        if is_run(Path(place)):
            found.append(Path(place))
            inner.clear()  # A run holds thousands of files and no other run.
        inner[:] = [name for name in inner if not name.startswith(".")]
    return sorted(found)


def is_run(path: Path) -> bool:
    """True if a folder holds config.json and what only training writes beside it."""
    beside = (METRICS, "checkpoints", lock.NAME)
    return (
        (path / CONFIG).is_file()
        and any((path / name).exists() for name in beside)
        and (path / "tokenizer").is_dir()
    )


def record(path: Path) -> dict[str, Any]:
    """Returns the job of a run directory.

    Raises:
        ValueError: It is none.
        DataError: A file in it is damaged.
    """
    if not is_run(path):
        raise ValueError(f"{path} is no run directory. Name the workdir of a training run.")
    settings = _settings(path)
    rows = list(_rows(path / METRICS))
    saved = {step: _saved_at(path, step) for step in layout.steps(path / "checkpoints")}
    newest = max(saved, default=None)
    step = max(rows[-1]["step"] if rows else 0, newest or 0)
    started = rows[0]["time"] if rows else (path / CONFIG).stat().st_mtime
    times = [started, *(row["time"] for row in rows[-1:]), *saved.values()]
    epochs = _last(rows, EPOCHS)
    return {
        "id": f"ft-{uuid.uuid5(uuid.NAMESPACE_URL, path.resolve().as_uri())}",
        "object": "fine-tune",
        "status": _status(path, settings["n_steps"], step, newest, max(times)),
        **settings,
        "model_output_name": path.resolve().name,
        "model_output_path": _checkpoint(path, newest) if newest is not None else "",
        "created_at": _iso(min(times)),
        "updated_at": _iso(max(times)),
        "steps_completed": step,
        "token_count": int(_last(rows, TOKENS).get("", 0)),
        "param_count": _parameters(path, newest),
        "epochs_completed": math.floor(min(epochs.values(), default=0)),
        "epochs": epochs,
        "events": _events(path, rows, saved, settings["n_steps"]),
    }


def _settings(path: Path) -> dict[str, Any]:
    """Returns what a record says of the settings, by the record's names."""
    content = files.read_json(path / CONFIG)
    try:
        settings = content["settings"]
        return {
            "model": str(settings["init_from"]),
            "training_files": {
                name: str(source["path"]) for name, source in settings["data"]["mixture"].items()
            },
            "n_steps": int(content.get("steps", settings["steps"])),
            "batch_size": int(settings["data"]["batch_size"]),
            "learning_rate": float(settings["optim"]["learning_rate"]),
            "wandb_project_name": str(settings["log"]["wandb_project"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path / CONFIG} holds no settings of a training run.") from None


def _rows(path: Path) -> Iterator[Row]:
    """Yields what a record is made of, of the lines of metrics.jsonl."""
    for number, row in writers.rows(path):
        told = {name: value for name, value in row.items() if _is_told(name, value)}
        if not ("step" in told and 0 <= told.get("time", -1) < 1e11):
            raise DataError(f"{path}, line {number} is not a JSON object with a step and a time.")
        yield told


def _is_told(name: str, value: Any) -> bool:
    """True of the numbers that a record is made of."""
    is_known = name in ("step", "time", TOKENS) or name.startswith(EPOCHS)
    return is_known and isinstance(value, int | float) and 0 <= value < 1e18


def _last(rows: list[Row], prefix: str) -> dict[str, float]:
    """Returns the newest values whose names begin so, by the rest of their names."""
    for row in reversed(rows):
        found = {
            name.removeprefix(prefix): value
            for name, value in row.items()
            if name.startswith(prefix)
        }
        if found:
            return found
    return {}


def _status(path: Path, steps: int, step: int, newest: int | None, updated: float) -> Status:
    if newest is not None and newest >= steps:
        return "completed"
    if not _is_alive(path / lock.NAME, updated):
        return "stopped"
    return "running" if step else "pending"


def _is_alive(path: Path, updated: float) -> bool:
    """True if the process that signed the lock lives: it is not asked for, which could hold it."""
    try:
        holder = json.loads(path.read_text())
        host, pid = str(holder["host"]), int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # Let go, or never held.
    if host != socket.gethostname():
        return time.time() - updated < SILENCE
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # Somebody else's.
    return True


def _checkpoint(path: Path, step: int) -> str:
    return str(layout.step_path(path / "checkpoints", step))


def _saved_at(path: Path, step: int) -> float:
    folder = layout.step_path(path / "checkpoints", step)
    return (folder / layout.COMMIT_FILE).stat().st_mtime


def _parameters(path: Path, newest: int | None) -> int:
    """Returns how many the newest checkpoint holds; 0 before the first."""
    if newest is None:
        return 0
    arrays = layout.read_record(path / "checkpoints", newest)["arrays"]
    return sum(math.prod(a["shape"]) for name, a in arrays.items() if name.startswith("params/"))


def _events(
    path: Path, rows: list[Row], saved: dict[int, float], steps: int
) -> list[dict[str, Any]]:
    """Returns what happened, in the order of time."""
    found = [_event((path / CONFIG).stat().st_mtime, "JOB_PENDING", "settings written")]
    if rows:
        first = rows[0]
        found.append(_event(first["time"], "TRAINING_START", f"step {first['step']} is logged"))
    found += _finished_epochs(rows)
    for step, at in saved.items():
        where = _checkpoint(path, step)
        found.append(_event(at, "CHECKPOINT_SAVE", f"step {step} saved", checkpoint_path=where))
    if steps in saved:
        where = _checkpoint(path, steps)
        found.append(_event(saved[steps], "JOB_COMPLETE", f"{steps} steps", model_path=where))
    found += _set_aside(path / "checkpoints")
    # config.json is written at each start, so of a continued run it may be newer than the rest.
    found[0]["created_at"] = min(event["created_at"] for event in found)
    return sorted(found, key=lambda event: event["created_at"])


def _finished_epochs(rows: list[Row]) -> Iterator[dict[str, Any]]:
    done: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            whole = math.floor(value) if name.startswith(EPOCHS) else 0
            if whole > done.get(name, 0):
                done[name] = whole
                source = name.removeprefix(EPOCHS)
                message = f"epoch {whole} of {source} complete at step {row['step']}"
                yield _event(row["time"], "EPOCH_COMPLETE", message, row.get(TOKENS, 0))


def _set_aside(checkpoints: Path) -> Iterator[dict[str, Any]]:
    for place in sorted(checkpoints.glob("*.corrupt-*")):
        if re.fullmatch(r"\d+\.corrupt-.*", place.name):
            message = f"{place.name} was damaged and is set aside"
            event = _event(place.stat().st_mtime, "CHECKPOINT_SET_ASIDE", message)
            yield event | {"level": "warning", "checkpoint_path": str(place)}


def _event(
    at: float,
    kind: str,
    message: str,
    tokens: float = 0,
    checkpoint_path: str = "",
    model_path: str = "",
) -> dict[str, Any]:
    return {
        "object": "fine-tune-event",
        "created_at": _iso(at),
        "level": "info",
        "message": message,
        "type": kind,
        "token_count": int(tokens),
        "checkpoint_path": checkpoint_path,
        "model_path": model_path,
    }


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
