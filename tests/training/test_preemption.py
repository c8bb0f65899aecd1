import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import jax
import pytest
from jax.experimental import multihost_utils

from llama_jax.training.preemption import Preemption

SIGNALS = [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
HEADER = """
import os, signal, sys, threading, time
import jax
jax.config.update("jax_platforms", "cpu")
from llama_jax.training.preemption import Preemption
"""


@contextlib.contextmanager
def started(script, *arguments):
    command = [sys.executable, "-c", HEADER + textwrap.dedent(script), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_is_answered_at_the_next_question(number, code, capfd):
    with Preemption() as preemption:
        assert not preemption.requested(1)
        assert preemption.exit_code == 0
        os.kill(os.getpid(), number)
        assert preemption.requested(2)
        assert preemption.requested(3)
        assert preemption.exit_code == code
    assert "saving after this step" in capfd.readouterr().err


def test_everything_is_as_before_afterwards():
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    threads = threading.active_count()
    with pytest.raises(KeyError), Preemption():
        assert [signal.getsignal(number) for number, _ in SIGNALS] != before
        raise KeyError
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_other_signals_are_not_counted():
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))
    try:
        with Preemption() as preemption:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR2)
            assert not preemption.requested(1)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert len(seen) == 3


def test_several_processes_leave_the_signal_to_jax_and_ask_it(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step) or step == 3,
    )
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    with Preemption() as preemption:
        assert [signal.getsignal(number) for number, _ in SIGNALS] == before
        assert [preemption.requested(step) for step in (1, 2, 3)] == [False, False, True]
        assert preemption.exit_code == 75
    assert asked == [1, 2, 3]


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_second_signal_ends_a_process_whose_main_thread_is_stuck(number, code):
    script = """
        import ctypes
        mutex = ctypes.create_string_buffer(128)
        with Preemption():
            print("ready", flush=True)
            # Waits in C for ever; signals do not wake it, so no Python handler runs.
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
    """
    with started(script) as process:
        assert process.stdout.readline() == "ready\n"
        sent = 0
        while process.poll() is None and sent < 40:
            process.send_signal(number)
            sent += 1
            time.sleep(0.2)  # Two that arrive together count as one.
        assert process.returncode == code
        assert sent >= 2
        assert "nothing more is saved" in process.stderr.read()


@pytest.mark.process
def test_processes_agree_on_the_step_when_one_of_them_is_told():
    script = """
        jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
        from jax.experimental import multihost_utils
        with Preemption() as preemption:
            for step in range(1, 1000):
                multihost_utils.sync_global_devices("step")
                time.sleep(0.01)
                if step == 3:
                    print("running", flush=True)
                if preemption.requested(step):
                    print(step, flush=True)
                    break
        jax.distributed.shutdown()
        sys.exit(preemption.exit_code)
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with started(script, address, 0) as first, started(script, address, 1) as second:
        for process in (first, second):
            assert "running\n" in process.stdout  # Gloo says something first.
        second.send_signal(signal.SIGTERM)
        steps = [process.communicate(timeout=60)[0] for process in (first, second)]
        assert [first.returncode, second.returncode] == [75, 75]
        assert steps[0] == steps[1] != ""
