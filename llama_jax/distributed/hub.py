"""Where the processes of a run meet: a thread of process 0 that knows who is there.

Every process, process 0 too, holds one connection to the hub as long as it lives. The system closes
it when the process ends, however it ends; so a death is known at once, and a stopped or unreachable
process by its silence. Messages are lines of JSON:

    to the hub      {"hello": 1, "of": 4, "name": ...}    the first
                    {"alive": 0}                          now and then
                    {"tell": "what", "value": ...}        see Processes.exchange
                    {"end": 75, "why": ..., "stuck": ...} this process ends, so all must
                    {"bye": 0}                            this process is done
    from the hub    {"welcome": "host:port"}              all are here; JAX's own address
                    {"alive": 0}
                    {"told": "what", "values": [...]}
                    {"end": 75, "why": ..., "stuck": ...}
"""

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from llama_jax.core.errors import EXIT_BUG, EXIT_CONFIG, EXIT_RETRY, RetryError

TICK = 0.25  # Seconds between two looks at the clock.
TOGETHER = 0.3  # Deaths that are this close are told as one.
ALIVE = {"alive": 0}
LONGEST = 1 << 26  # Bytes of a message: a value of one process may be a whole configuration.


class Connection:
    """One end of a connection: messages out, messages in."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.heard = time.monotonic()
        self._rest = b""
        self._sending = threading.Lock()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message. To one who is gone it is lost: that is noticed by who receives."""
        with self._sending, contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the messages that have come; None when the other end is gone.

        Raises:
            ValueError: The other end does not speak as above.
        """
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._rest) > LONGEST or not all(isinstance(m, dict) for m in messages):
            raise ValueError("not a message")
        return messages

    def close(self) -> None:
        """Closes the connection."""
        self.sock.close()


class Guest(Connection):
    """The hub's end of a connection."""

    process: int | None = None  # None before its hello.
    name = "somebody"
    is_done = False


class Hub:
    """Listens, and serves from a thread of its own until all are done or one is lost.

    Args:
        host: The address that the others use for this machine.
        port: Where to listen.
        count: Processes of the run.
        start_seconds: How long to wait for all.
        silence_seconds: After how long without a word a process is lost.

    Raises:
        RetryError: The port is taken.
    """

    def __init__(
        self, host: str, port: int, count: int, start_seconds: float, silence_seconds: float
    ):
        self._host, self._count = host, count
        self._start, self._silence = start_seconds, silence_seconds
        self._deadline = time.monotonic() + start_seconds
        self._guests: set[Guest] = set()
        self._here: dict[int, Guest] = {}
        self._told: dict[int, tuple[str, Any]] = {}
        self._lost: dict[int, str] = {}
        self._lost_at = 0.0
        self._all_were_here = self._is_ending = False
        self._listener = _listen(host, port)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="hub", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Returns when all are done or gone, at the latest after `seconds`."""
        self._thread.join(seconds)

    def _serve(self) -> None:
        beat = time.monotonic()
        while not self._all_were_here or any(not guest.is_done for guest in self._here.values()):
            for key, _ in self._selector.select(TICK):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.data)
            now = time.monotonic()
            if now - beat > min(self._silence / 5, 5):
                beat = now
                self._send_all(ALIVE)
            self._look_at_the_clock(now)
            if self._is_ending and not self._here:
                break
        self._listener.close()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(self._silence)  # Of sending to one who does not read.
        guest = Guest(sock)
        self._guests.add(guest)
        self._selector.register(sock, selectors.EVENT_READ, guest)

    def _hear(self, guest: Guest) -> None:
        try:
            messages = guest.receive()
        except ValueError:  # Not one of ours: a port scan, another program.
            messages = None
        if messages is None:
            self._part_from(guest)
            return
        for message in messages:
            self._answer(guest, message)

    def _answer(self, guest: Guest, message: dict[str, Any]) -> None:
        if "hello" in message:
            self._greet(guest, message)
        elif guest.process is None:
            self._part_from(guest)
        elif "tell" in message:
            self._told[guest.process] = message["tell"], message["value"]
            self._tell_all()
        elif "end" in message:
            why = f"{guest.name} ended with exit code {message['end']}: {message['why']}"
            # What a retry would not mend must not look like a retry in any of them.
            code = message["end"] if message["end"] not in (0, 74, 130) else EXIT_RETRY
            guest.is_done = True
            self._end(code, why, message["stuck"], but=guest)
        elif "bye" in message:
            guest.is_done = True

    def _greet(self, guest: Guest, message: dict[str, Any]) -> None:
        process, of, name = (message.get(key) for key in ("hello", "of", "name"))
        if not (isinstance(process, int) and isinstance(of, int) and isinstance(name, str)):
            self._part_from(guest)
            return
        refusal = ""
        if of != self._count:
            refusal = (
                f"{name} was told that there are {of} processes, but process 0 was told "
                f"{self._count}. Tell all of them the same number."
            )
        elif process in self._here:
            refusal = (
                f"{name} has the same id as {self._here[process].name}. Give each process its own "
                f"id, from 0 to {self._count - 1}."
            )
        if refusal:
            print(f"refused: {refusal}", flush=True)
            guest.send({"end": EXIT_CONFIG, "why": refusal, "stuck": False})
            self._part_from(guest)
            return
        guest.process, guest.name = process, name
        self._here[process] = guest
        if len(self._here) == self._count:
            self._all_were_here = True
            # Not sooner: another program might take the port while we wait.
            self._send_all({"welcome": f"{self._host}:{free_port(self._host)}"})

    def _tell_all(self) -> None:
        if len(self._told) < self._count:
            return
        told, self._told = self._told, {}
        names = {process: name for process, (name, _) in told.items()}
        if len(set(names.values())) > 1:
            self._end(EXIT_BUG, f"the processes are at different places: {names}", stuck=True)
            return
        values = [told[process][1] for process in range(self._count)]
        self._send_all({"told": names[0], "values": values})

    def _part_from(self, guest: Guest) -> None:
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        self._selector.unregister(guest.sock)
        guest.close()
        if guest.process is not None:
            del self._here[guest.process]
            if not guest.is_done:
                self._lose(guest, "has ended without a word")

    def _lose(self, guest: Guest, how: str) -> None:
        if not self._lost:
            self._lost_at = time.monotonic()
        assert guest.process is not None
        self._lost[guest.process] = f"{guest.name} {how}"

    def _look_at_the_clock(self, now: float) -> None:
        if not self._all_were_here and now > self._deadline and not self._is_ending:
            missing = set(range(self._count)) - self._here.keys()
            what = "process" if len(missing) == 1 else "processes"
            self._end(
                EXIT_RETRY,
                f"{what} {ids(missing)} of {self._count} did not come within {self._start:g} "
                "seconds (config.distributed.start). See why they have not started, or what they "
                "printed.",
            )
        for process, guest in self._here.items():
            if now - guest.heard > self._silence and process not in self._lost:
                self._lose(guest, f"has been silent for {self._silence:g} seconds")
        if self._lost and now - self._lost_at > TOGETHER:
            why = "; ".join(self._lost[process] for process in sorted(self._lost))
            self._end(EXIT_RETRY, f"{why}. Exit code {EXIT_RETRY}: start all processes again.")

    def _end(self, code: int, why: str, stuck: bool = False, but: Guest | None = None) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        for guest in list(self._guests):
            if guest is not but and guest.process not in self._lost:
                guest.send({"end": code, "why": why, "stuck": stuck})

    def _send_all(self, message: dict[str, Any]) -> None:
        for guest in self._here.values():
            if not guest.is_done:
                guest.send(message)


def ids(processes: Iterable[int]) -> str:
    """Returns ids for people: '1, 2, 5', the first ten of many."""
    listed = sorted(processes)
    return ", ".join(map(str, listed[:10])) + (f" and {len(listed) - 10} more" * (len(listed) > 10))


def is_loopback(host: str) -> bool:
    """True if only processes of this machine can mean this machine by `host`."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def free_port(host: str) -> int:
    """Returns a port that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1" if is_loopback(host) else "", 0))
        return sock.getsockname()[1]


def _listen(host: str, port: int) -> socket.socket:
    try:
        if is_loopback(host):
            return socket.create_server(("127.0.0.1", port), backlog=1024)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise RetryError(
            f"process 0 cannot listen on port {port} ({error.strerror}): another program, or an "
            "earlier run that has not ended, uses it. Wait for that to end, or choose another port."
        ) from None
