"""A run directory has one owner."""

import contextlib
import json
import os
import queue
import subprocess
import sys

import pytest

from llama_jax.checkpoint import lock

HOLD = """
import sys
from pathlib import Path
from llama_jax.checkpoint import lock
with lock.owner(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path):
    with lock.owner(tmp_path / "run"):
        refused = pytest.raises(ValueError, match=f"is in use by process {os.getpid()} on ")
        with refused, lock.owner(tmp_path / "run"):
            pass
    with lock.owner(tmp_path / "run"):
        signed = json.loads((tmp_path / "run" / lock.NAME).read_text())
        assert signed["pid"] == os.getpid()


@pytest.mark.process
def test_a_killed_owner_does_not_lock_the_directory_for_ever(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        refused = pytest.raises(ValueError, match=f"process {process.pid} on ")
        with refused, lock.owner(tmp_path):
            pass
        process.kill()
        process.wait()
    with lock.owner(tmp_path):
        pass


class Two:
    """Two processes of one run, in threads."""

    count = 2

    def __init__(self, id: int, told: queue.Queue):
        self.id, self._told = id, told

    def exchange(self, what, value):
        if self.id == 0:
            self._told.put(value)
            return [value, None]
        return [self._told.get(timeout=10), None]


def test_the_other_processes_of_a_run_do_not_fight_for_it(tmp_path):
    told = queue.Queue()
    with lock.owner(tmp_path, Two(0, told)), lock.owner(tmp_path, Two(1, told)):
        refused = pytest.raises(ValueError, match=f"in use by process {os.getpid()}")
        with refused, lock.owner(tmp_path):
            pass


def test_a_folder_that_is_not_the_same_for_all_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SEEN_WITHIN", 0.1)
    told, there = queue.Queue(), tmp_path / "there"
    refused = pytest.raises(ValueError, match=r"not the same folder for process 1 .* hosts share")
    with contextlib.ExitStack() as held:
        held.enter_context(lock.owner(tmp_path / "here", Two(0, told)))
        held.enter_context(lock.owner(there))  # Another run's lock.
        with refused:
            held.enter_context(lock.owner(there, Two(1, told)))
