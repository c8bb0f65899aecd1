"""One owner of a run directory: two runs would delete each other's checkpoints.

Of several processes of one run, process 0 holds the lock; the others look whether they see its
signature, which they do if and only if the directory is the same one for all of them.
"""

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llama_jax.distributed.processes import Alone, Processes, agreed

NAME = ".lock"
SEEN_WITHIN = 30.0  # Seconds; network file systems show other hosts' new files late.


@contextlib.contextmanager
def owner(workdir: Path, processes: Processes | None = None) -> Iterator[None]:
    """Holds `workdir` for this run. The system lets go when the process ends, however it ends.

    Raises:
        ValueError: Another run holds it (the message says which process), or the processes of this
            run see different directories.
    """
    processes = processes or Alone()
    with contextlib.ExitStack() as held:
        mine = held.enter_context(_held(workdir)) if processes.id == 0 else None
        signature = agreed(processes, "owner of the workdir", mine)
        _look_for(signature, Path(workdir), processes.id)
        yield


@contextlib.contextmanager
def _held(workdir: Path) -> Iterator[str]:
    """Yields the signature of this process."""
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
        signature = _sign(file)
        try:
            yield signature
        finally:
            file.truncate(0)


def _sign(file: IO[str]) -> str:
    start = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "start": start}
    signature = json.dumps(holder | {"id": uuid.uuid4().hex})
    file.truncate(0)
    file.write(signature)
    file.flush()
    return signature


def _look_for(signature: str, workdir: Path, process_id: int) -> None:
    deadline = time.monotonic() + SEEN_WITHIN
    while not (workdir / NAME).is_file() or (workdir / NAME).read_text() != signature:
        if time.monotonic() > deadline:
            raise ValueError(
                f"config.workdir {workdir} is not the same folder for process {process_id} on "
                f"{socket.gethostname()} as for process 0 on {json.loads(signature)['host']}. Set "
                "it to a folder on a file system that all hosts share."
            )
        time.sleep(0.2)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']} (since {holder['start']})"
    except ValueError:  # It holds the lock and has not signed yet.
        return "another process"
