"""One run as several processes: they meet, agree, notice when one is gone, and end together.

    with joined(start_seconds=300, silence_seconds=100) as processes:
        steps = agreed(processes, "steps", steps_here())  # What process 0 has found.

JAX alone would end them too, from C++: without a name, by SIGSEGV where a port is taken, by abort
where a process is missing, and not at all for one that stands still while its threads run. So they
meet first in a hub of ours (hub.py), which gives JAX a free port and outlives nobody.
"""

import contextlib
import ctypes
import faulthandler
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax

from llama_jax.core import errors
from llama_jax.core.errors import RetryError
from llama_jax.distributed import cluster as clusters
from llama_jax.distributed.cluster import Cluster
from llama_jax.distributed.hub import ALIVE, Connection, Hub, ids, is_loopback
from llama_jax.distributed.processes import Alone, Processes

STDERR = 2
SignalHandler = ctypes.CFUNCTYPE(None, ctypes.c_int)
# Seconds in which the news of a lost process comes after the error that it causes here.
NEWS = 2.0
# Seconds that process 0 stays for the others to read why they end: JAX aborts them when it goes.
FAREWELL = 2.0


@contextlib.contextmanager
def joined(start_seconds: float, silence_seconds: float) -> Iterator[Processes]:
    """Yields the processes of this run once all are there and JAX knows of them.

    In a process alone (see cluster.py) it does nothing. Otherwise an error in the block ends this
    process with its own exit code, and all others too; nobody waits for one who is gone.

    Args:
        start_seconds: How long to wait for all to start.
        silence_seconds: After how long without a sign of life a process is given up.

    Raises:
        ValueError: The environment says half of what it must.
        RetryError: The port of process 0 is taken, or process 0 is not to be found.
    """
    cluster = clusters.find(os.environ, start_seconds)
    if cluster is None:
        yield Alone()
        return
    member = Member(cluster, start_seconds, silence_seconds)
    try:
        member.join()
        _hold_aborts()
        _initialize_jax(cluster, member.jax_address, start_seconds, silence_seconds)
        yield member
        member.leave()
    except BaseException as error:
        member.fail(error)


class Member:
    """This process in a run of several; a thread of it listens to the hub."""

    def __init__(self, cluster: Cluster, start_seconds: float, silence_seconds: float):
        self.id, self.count = cluster.process_id, cluster.processes
        self.jax_address = ""
        self._connection: Connection
        self._has_joined = False
        self._cluster, self._start, self._silence = cluster, start_seconds, silence_seconds
        self._name = f"process {self.id} (pid {os.getpid()} on {socket.gethostname()})"
        self._hub = self._open_hub() if self.id == 0 else None
        self._is_leaving = False
        self._told: queue.Queue[tuple[str, list]] = queue.Queue()
        self._thread = threading.Thread(target=self._listen, name="processes", daemon=True)

    def join(self) -> None:
        """Returns when all processes are there.

        Raises:
            RetryError: Process 0 is not.
        """
        where = f"{self._cluster.host}:{self._cluster.port}"
        if self._hub is not None:
            whom = ids(range(1, self.count))
            print(f"{self._name} of {self.count} waits for {whom} at {where}", flush=True)
        else:
            print(f"{self._name} of {self.count} joins at {where}", flush=True)
        self._connection = self._connect()
        self._has_joined = True
        self._connection.send({"hello": self.id, "of": self.count, "name": self._name})
        self._thread.start()
        _, (self.jax_address,) = self._told.get()

    def exchange(self, what: str, value: Any) -> list[Any]:
        """Returns the values of all processes, by id; see Processes."""
        self._connection.send({"tell": what, "value": value})
        told, values = self._told.get()
        assert told == what, (told, what)
        return values

    def tell_stuck(self, why: str) -> None:
        """Tells the others that this process is about to end; they show where they stand."""
        self._say_end(errors.EXIT_RETRY, why, stuck=True)

    def leave(self) -> None:
        """Parts from the others when all have finished."""
        self.exchange("the end", None)
        self._is_leaving = True  # From here on nobody is missed.
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()
        self._connection.send({"bye": 0})
        if self._hub is not None:
            self._hub.wait(FAREWELL)

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process with the exit code of `error`, and all others."""
        # If another process is the cause, the thread hears of it now and ends this one.
        time.sleep(NEWS)
        code = errors.explain(error)
        why = str(error) if errors.is_for_the_user(error) else f"{type(error).__name__}: {error}"
        self._say_end(code, why, stuck=False)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # sys.exit would wait for the others in JAX's shutdown.

    def _say_end(self, code: int, why: str, stuck: bool) -> None:
        self._is_leaving = True
        if not self._has_joined:
            return
        self._connection.send({"end": code, "why": why[:2000], "stuck": stuck})
        if self._hub is not None:
            self._hub.wait(FAREWELL)

    def _open_hub(self) -> Hub:
        host, port = self._cluster.host, self._cluster.port
        return Hub(host, port, self.count, self._start, self._silence)

    def _connect(self) -> Connection:
        deadline = time.monotonic() + self._start
        host, port = self._cluster.host, self._cluster.port
        host = "127.0.0.1" if self._hub is not None else host
        while True:
            try:
                return Connection(socket.create_connection((host, port), timeout=self._silence))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RetryError(
                        f"process 0 is missing: nobody answered process {self.id} at {host}:{port} "
                        f"within {self._start:g} seconds (config.distributed.start; {error}). See "
                        f"why process 0 has not started, and {self._cluster.told_by}."
                    ) from None
                time.sleep(0.2)

    def _listen(self) -> None:
        beat = time.monotonic()
        pause = min(self._silence / 5, 5)
        readable = select.poll()
        readable.register(self._connection.sock, select.POLLIN)
        while True:
            messages = self._receive() if readable.poll(1000 * pause) else []
            if messages is None:
                return
            for message in messages:
                self._obey(message)
            now = time.monotonic()
            if now - beat >= pause:
                beat = now
                self._connection.send(ALIVE)
            if not self._is_leaving and now - self._connection.heard > self._silence:
                self._end(f"process 0 has been silent for {self._silence:g} seconds")

    def _receive(self) -> list[dict[str, Any]] | None:
        """Returns what the hub says; None when it has closed, as it does in the end."""
        try:
            messages = self._connection.receive()
        except ValueError:
            self._end(f"what answers at {self._cluster.host}:{self._cluster.port} is no llama_jax")
        if messages is None and not self._is_leaving:
            self._end("process 0 has ended without a word")
        return messages

    def _obey(self, message: dict[str, Any]) -> None:
        if "welcome" in message:
            self._told.put(("welcome", [message["welcome"]]))
        elif "told" in message:
            self._told.put((message["told"], message["values"]))
        elif "end" in message and not self._is_leaving:
            self._exit(message["end"], message["why"], message["stuck"])

    def _end(self, why: str) -> NoReturn:
        self._exit(
            errors.EXIT_RETRY,
            f"{why}. Exit code {errors.EXIT_RETRY}: start all processes again.",
            stuck=False,
        )

    def _exit(self, code: int, why: str, stuck: bool) -> NoReturn:
        """Ends this process although its main thread may wait for another, for ever, in C."""
        os.write(STDERR, f"\nprocess {self.id} ends: {why}\n".encode())
        if stuck:
            faulthandler.dump_traceback(file=STDERR, all_threads=True)
        if self._hub is not None:
            self._connection.close()
            self._hub.wait(FAREWELL)
        os._exit(code)


def _hold_aborts() -> None:
    """Lets an abort wait for the news.

    When process 0 dies, JAX's own thread learns of it too, and aborts within a millisecond. The
    handler runs in that thread (Python's would wait for the main thread), and then lets it abort.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _wait_for_the_news)


@SignalHandler
def _wait_for_the_news(_: int) -> None:
    time.sleep(NEWS)


def _initialize_jax(
    cluster: Cluster, address: str, start_seconds: float, silence_seconds: float
) -> None:
    jax.distributed.initialize(
        address,
        cluster.processes,
        cluster.process_id,
        local_device_ids=cluster.local_devices or None,
        cluster_detection_method="deactivate",
        initialization_timeout=int(start_seconds),
        # Ours comes first: JAX would abort without saying who is missing.
        heartbeat_timeout_seconds=int(max(100, 4 * silence_seconds)),
        shutdown_timeout_seconds=60,
        coordinator_bind_address=address if is_loopback(cluster.host) else None,
    )
