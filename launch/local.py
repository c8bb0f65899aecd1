#!/usr/bin/env python3
"""Runs one command as N processes of this machine: python launch/local.py --processes=2 -- COMMAND

Each learns of the others from LLAMA_JAX_* and prints with its number in front. SIGTERM or Ctrl-C
asks all to save and end; a second one kills. When one has ended, the others get --grace seconds.
If nobody ended with anything but 0, 74 (storage), 75 (again) or by a signal, and not all with 0,
all start again, --restarts times at most. Other exit codes (65, 70, 78) are final.
"""

import argparse
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time

AGAIN = (74, 75)


def main() -> int:
    """Returns the exit code of the whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--cpu-devices", type=int, default=0, help="CPU devices of each process")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each process")
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--grace", type=float, default=60, help="seconds")
    parser.add_argument("command", nargs="+")
    args, signals = parser.parse_args(), []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
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
    threads = [threading.Thread(target=pass_on, args=pair) for pair in enumerate(children)]
    for thread in threads:
        thread.start()
    deadline, sent = math.inf, 0
    while alive := [child for child in children if child.poll() is None]:
        if deadline == math.inf and (signals or len(alive) < len(children)):
            deadline = time.monotonic() + args.grace
        kill = len(signals) > 1 or time.monotonic() > deadline
        for child in alive if kill or len(signals) > sent else ():
            child.kill() if kill else child.terminate()
        sent = len(signals)
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    codes = [child.returncode for child in children]
    final = [code for code in codes if code > 0 and code not in AGAIN]
    return final[0] if final else max(AGAIN[1] if code < 0 else code for code in codes)


def start(args: argparse.Namespace, port: int, i: int) -> subprocess.Popen:
    """Starts process i, which ends with this launcher (Linux), and not by Ctrl-C."""
    env = {"LLAMA_JAX_COORDINATOR": f"127.0.0.1:{port}", "LLAMA_JAX_PROCESS_ID": str(i)}
    env["LLAMA_JAX_PROCESSES"] = str(args.processes)
    if args.cpu_devices:
        env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(args.cpu_devices)}
    if args.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(i * args.gpus + k) for k in range(args.gpus))
    die = (lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)) if sys.platform == "linux" else None
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    env = os.environ | env
    return subprocess.Popen(
        args.command, env=env, start_new_session=True, preexec_fn=die, **streams
    )


def pass_on(i: int, child: subprocess.Popen) -> None:
    """Prints what process i prints."""
    for line in child.stdout:
        sys.stdout.buffer.write(b"[%d] %s" % (i, line))
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
