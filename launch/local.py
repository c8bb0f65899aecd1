#!/usr/bin/env python3
"""Runs one command as N processes of this machine: python launch/local.py --processes=2 -- COMMAND

Each prints with its number in front. SIGTERM or Ctrl-C asks all to save and end; a second kills.
When one has ended, the others get --grace seconds. After 74 (storage), 75 (again) or a kill all
start again, --restarts times at most; any other exit code, of one of them, is final.
"""

import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from subprocess import DEVNULL, PIPE, STDOUT, Popen

AGAIN = (74, 75)


def main() -> int:
    """Returns the exit code of the whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("cpu-devices", "gpus", "restarts", "processes"):  # The first two: of each process.
        parser.add_argument(f"--{name}", type=int, default=0, required=name == "processes")
    parser.add_argument("--grace", type=float, default=60, help="seconds")
    parser.add_argument("command", nargs="+")
    args, signals = parser.parse_args(), []
    [signal.signal(n, lambda n, _: signals.append(n)) for n in (signal.SIGTERM, signal.SIGINT)]
    for attempt in range(args.restarts + 1):
        code = run(args, signals)
        if code not in AGAIN or signals or attempt == args.restarts:
            return 128 + signal.SIGINT if signals[:1] == [signal.SIGINT] else code
        print(f"[launcher] exit code {code}: restart {attempt + 1}", flush=True)


def run(args: argparse.Namespace, signals: list[int]) -> int:
    """Starts all, waits for all, and returns their common exit code."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = [start(args, port, i) for i in range(args.processes)]

    def pass_on(i: int, child: Popen) -> None:
        for line in child.stdout:
            sys.stdout.buffer.write(b"[%d] %s" % (i, line))
            sys.stdout.flush()

    readers = [threading.Thread(target=pass_on, args=pair) for pair in enumerate(children)]
    [reader.start() for reader in readers]
    deadline, sent = float("inf"), 0
    while alive := [child for child in children if child.poll() is None]:
        if deadline == float("inf") and (signals or len(alive) < len(children)):
            deadline = time.monotonic() + args.grace
        kill = len(signals) > 1 or time.monotonic() > deadline
        for child in alive if kill or len(signals) > sent else ():
            child.kill() if kill else child.terminate()
        sent = len(signals)
        time.sleep(0.05)
    [reader.join() for reader in readers]
    codes = [child.returncode for child in children]
    final = [code for code in codes if code > 0 and code not in AGAIN]
    return max(final or (75 if code < 0 else code for code in codes))


def start(args: argparse.Namespace, port: int, i: int) -> Popen:
    """Starts process i, which ends with this launcher (Linux), and not by Ctrl-C."""
    place = {"COORDINATOR": f"127.0.0.1:{port}", "PROCESSES": args.processes, "PROCESS_ID": i}
    env = {f"LLAMA_JAX_{name}": str(value) for name, value in place.items()}
    if args.cpu_devices:
        env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(args.cpu_devices)}
    if args.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(i * args.gpus + k) for k in range(args.gpus))
    die = (lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)) if sys.platform == "linux" else None
    options = {"env": os.environ | env, "start_new_session": True, "preexec_fn": die}
    return Popen(args.command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, **options)


if __name__ == "__main__":
    sys.exit(main())
