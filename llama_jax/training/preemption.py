"""Turns "stop now" into "save, then stop".

    one process         SIGTERM            finish the step, save, exit 75: start me again
                        SIGINT (Ctrl-C)    finish the step, save, exit 130
                        a second of them   exit at once, nothing saved
    several processes   SIGTERM to any     all save the same step, exit 75

With several processes JAX's own notifier owns SIGTERM: it agrees with the others on a step, and a
handler installed here would keep the notice from it.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from llama_jax.core import errors

STDERR = 2
EXIT_CODES = {signal.SIGTERM: errors.EXIT_RETRY, signal.SIGINT: errors.EXIT_INTERRUPTED}


class Preemption:
    """A context in which a run is asked once per step whether it must stop."""

    def __init__(self):
        self.exit_code = 0  # What the run must exit with after it has saved.
        self._several = jax.process_count() > 1
        self._previous: dict[signal.Signals, Any] = {}
        self._listener: _Listener | None = None

    def requested(self, step: int) -> bool:
        """Returns True if the run must save this step and exit with `exit_code`.

        Every process must ask at every step: with several processes the answer is the same in all.
        """
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self.exit_code = errors.EXIT_RETRY
        return self.exit_code != 0

    def __enter__(self) -> Self:
        if not self._several:
            self._listener = _Listener()
            for number in EXIT_CODES:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: the old handler was not Python's and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.exit_code:
            _exit(number)
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        name = signal.Signals(number).name
        text = f"\n{name}: saving after this step; once more exits at once, without saving.\n"
        os.write(STDERR, text.encode())


class _Listener:
    """Obeys the second signal while the main thread is blocked in C.

    There Python runs no handler (a compilation, a collective that waits for ever), but the
    interpreter writes each signal's number to a descriptor, and this thread reads it.
    """

    def __init__(self):
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._previous = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._previous)
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)

    def _listen(self) -> None:
        received = 0
        while numbers := os.read(self._reading, 1):
            received += numbers[0] in EXIT_CODES
            if received > 1:
                _exit(numbers[0])


def _exit(number: int) -> None:
    os.write(STDERR, b"\nsecond signal: exiting at once, nothing more is saved.\n")
    os._exit(EXIT_CODES[signal.Signals(number)])
