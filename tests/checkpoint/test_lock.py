"""A run directory has one owner."""

import json
import os
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
