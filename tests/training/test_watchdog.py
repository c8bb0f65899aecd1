import math
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from llama_jax.config.train import WatchdogConfig
from llama_jax.training.watchdog import Watchdog

HEADER = """
import math, os, signal, threading, time
from llama_jax.config.train import WatchdogConfig
from llama_jax.training.watchdog import Watchdog

def stuck_here(seconds):
    time.sleep(seconds)
"""


def run(script):
    return subprocess.run(
        [sys.executable, "-c", HEADER + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.process
def test_a_stuck_phase_ends_the_run_with_every_stack():
    script = """
        threading.Thread(target=stuck_here, args=(50,), daemon=True).start()
        with Watchdog(WatchdogConfig(data=0.2)) as watchdog, watchdog.phase("data"):
            stuck_here(50)
    """
    started = time.monotonic()
    result = run(script)
    assert time.monotonic() - started < 30
    assert result.returncode == 75
    assert "'data' made no progress in 0.2 seconds" in result.stderr
    assert "config.watchdog.data" in result.stderr
    assert result.stderr.count("in stuck_here") == 2  # Both threads.


@pytest.mark.process
def test_each_phase_has_its_own_limit_and_each_entrance_starts_it_anew():
    script = """
        limits = WatchdogConfig(step=0.5, data=math.inf, compile=math.inf, checkpoint=1000)
        with Watchdog(limits) as watchdog:
            for _ in range(6):
                with watchdog.phase("step"):
                    time.sleep(0.1)
            time.sleep(0.7)  # Outside of phases.
            for phase in ("data", "compile", "checkpoint"):
                with watchdog.phase(phase):
                    time.sleep(0.7)
            with watchdog.phase("step"):
                time.sleep(0.1)
                with watchdog.phase("checkpoint"):
                    time.sleep(0.7)
                time.sleep(0.1)
            print("alive", flush=True)
            watchdog.enter("data")
            watchdog.enter("step")  # Sooner than what the thread was waiting for.
            time.sleep(50)
    """
    result = run(script)
    assert result.stdout == "alive\n"
    assert result.returncode == 75
    assert "'step' made no progress in 0.5 seconds" in result.stderr


@pytest.mark.process
def test_sigusr1_prints_the_stacks_and_the_run_goes_on():
    script = """
        def loop():
            os.kill(os.getpid(), signal.SIGUSR1)

        with Watchdog(WatchdogConfig()):
            loop()
        print("done")
    """
    result = run(script)
    assert (result.returncode, result.stdout) == (0, "done\n")
    assert "in loop" in result.stderr


def test_closing_stops_the_thread_at_once():
    before = signal.getsignal(signal.SIGUSR1)
    watchdog = Watchdog(WatchdogConfig(step=math.inf))
    started = time.monotonic()
    with watchdog:
        watchdog.enter("step")
    assert time.monotonic() - started < 1
    assert not watchdog._thread.is_alive()
    assert signal.getsignal(signal.SIGUSR1) == before
