"""One owner of a run directory: two writers would delete each other's checkpoints."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

NAME = ".lock"


@contextlib.contextmanager
def owner(workdir: Path) -> Iterator[None]:
    """Holds `workdir` for this process. The system lets go when the process ends, however it ends.

    Raises:
        ValueError: Another process holds it; the message says which.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / NAME, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{workdir} is in use by {_holder(file)}. Stop that process, or choose another "
                "workdir."
            ) from None
        _sign(file)
        try:
            yield
        finally:
            file.truncate(0)


def _sign(file: IO[str]) -> None:
    start = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": start}))
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']} (since {holder['start']})"
    except ValueError:  # It holds the lock and has not signed yet.
        return "another process"
