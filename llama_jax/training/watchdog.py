"""Ends a run that no longer moves.

JAX does not notice a process that is alive but stuck (a hung collective, a dead file system, a
loader that waits for ever), and neither does a scheduler. A thread watches the clock instead; it
runs while the main thread is blocked in C, prints what every thread is doing, and exits 75, upon
which launchers start the run again.
"""

import contextlib
import faulthandler
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Self

from llama_jax.config.train import WatchdogConfig
from llama_jax.core import errors
from llama_jax.distributed.processes import Alone, Processes

STDERR = 2  # The descriptor itself: a progress bar may have replaced sys.stderr.


class Watchdog:
    """Watches one phase at a time: "compile", "step", "data" or "checkpoint".

        with watchdog.phase("step"):
            state, scalars = train_step(state, batch)

    Each entrance starts its limit anew. Outside of phases nothing is watched. SIGUSR1 prints the
    stacks and lets the run go on.
    """

    def __init__(self, config: WatchdogConfig, processes: Processes | None = None):
        self._config = config
        self._processes = processes or Alone()
        self._changed = threading.Condition()
        self._phase = ""
        self._deadline = math.inf
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watches the block; afterwards the phase around it, if any, starts its limit anew."""
        outer = self._phase
        self.enter(name)
        try:
            yield
        finally:
            self.enter(outer)

    def enter(self, name: str) -> None:
        """Watches `name` from now on; "" watches nothing."""
        limit = getattr(self._config, name) if name else math.inf
        with self._changed:
            self._phase = name
            self._deadline = time.monotonic() + limit
            self._changed.notify()

    def close(self) -> None:
        """Stops watching."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        faulthandler.unregister(signal.SIGUSR1)

    def __enter__(self) -> Self:
        faulthandler.register(signal.SIGUSR1, file=STDERR, all_threads=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                remaining = self._deadline - time.monotonic()
                if remaining <= 0:
                    self._exit()
                # A wait longer than this overflows in C.
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))

    def _exit(self) -> None:
        limit = getattr(self._config, self._phase)
        why = (
            f"watchdog: {self._phase!r} made no progress in {limit:g} seconds, its limit "
            f"(config.watchdog.{self._phase})"
        )
        text = f"\n{why}. Stacks of all threads follow; exit code {errors.EXIT_RETRY}.\n"
        os.write(STDERR, text.encode())
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        self._processes.tell_stuck(why)
        os._exit(errors.EXIT_RETRY)  # sys.exit would wait for the thread that is stuck.
