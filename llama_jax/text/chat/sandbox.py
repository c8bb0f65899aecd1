"""Renders Jinja templates that nobody has read, in a process of its own that can be ended.

A sandbox keeps a template from reaching Python's insides; it does not keep it from running for ever
or from filling the memory. So the process that renders (worker.py) has a limit of memory, and it is
ended when it takes too long.

    to it     one line: JSON
    from it   one byte, "=" for a text and "!" for the reason there is none; 8 bytes, how many
              follow; UTF-8
"""

import json
import os
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

from llama_jax.text.chat.conversation import Refused

SECONDS = 10.0  # One conversation takes milliseconds.
LARGEST_TEXT = 64 << 20  # Bytes; the largest document of a source has as many.
MEMORY = 1 << 30
_HEAD = 9
# What Python needs to find its packages; whatever else is there (keys) is nobody's business.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_WORKER = Path(__file__).with_name("worker.py")


class Sandbox:
    """Renders one template; the process starts when it is first needed."""

    def __init__(self, template: str, seconds: float = SECONDS):
        self._template, self._seconds = template, seconds
        self._process: subprocess.Popen | None = None

    def render(self, **variables: Any) -> str:
        """Returns the text.

        Raises:
            Refused: The template refuses the variables, fails, takes too long or too much memory.
        """
        request = json.dumps({"template": self._template, "variables": variables}).encode()
        process = self._started()
        deadline = time.monotonic() + self._seconds
        try:
            _write(process, request + b"\n", deadline)
            head = _read(process, _HEAD, deadline)
            size = int.from_bytes(head[1:], "big")
            answer = _read(process, size, deadline).decode("utf-8", "surrogatepass")
        except _Ended as end:
            self.close()
            raise Refused("chat template failed", str(end)) from None
        if head[:1] == b"!":
            raise Refused("chat template failed", answer)
        return answer

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._finalizer()
            self._process = None

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            # -I -S -E would lose the packages of a virtual environment; -P keeps this folder, whose
            # files are named as they are, out of what can be imported.
            command = [sys.executable, "-P", str(_WORKER), str(MEMORY), str(LARGEST_TEXT)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]
            self._finalizer = weakref.finalize(self, _end, self._process)
        return self._process


class _Ended(Exception):
    """The process gives no answer, and why."""


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _write(process: subprocess.Popen, data: bytes, deadline: float) -> None:
    assert process.stdin is not None
    view = memoryview(data)
    while view:
        _wait(writable=process.stdin.fileno(), deadline=deadline)
        try:
            view = view[os.write(process.stdin.fileno(), view) :]
        except BrokenPipeError:
            raise _Ended(_GONE) from None


def _read(process: subprocess.Popen, size: int, deadline: float) -> bytes:
    assert process.stdout is not None
    pieces = []
    while size:
        _wait(readable=process.stdout.fileno(), deadline=deadline)
        if not (piece := os.read(process.stdout.fileno(), min(size, 1 << 20))):
            raise _Ended(_GONE)
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _wait(*, readable: int = -1, writable: int = -1, deadline: float) -> None:
    poll = select.poll()
    if readable >= 0:
        poll.register(readable, select.POLLIN)
    if writable >= 0:
        poll.register(writable, select.POLLOUT)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _Ended("the chat template did not finish in time; it may run for ever.")


_GONE = f"the chat template took more memory than the {MEMORY >> 20} MiB it may have, or crashed."
