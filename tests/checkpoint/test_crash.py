"""kill -9 at any moment: every listed step is whole, and none that was committed is lost."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from llama_jax.checkpoint import layout, reader
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.train import CheckpointConfig

CRASHER = Path(__file__).with_name("crasher.py")
LEAVES = 150
ABSTRACT = {f"w{i}": jax.ShapeDtypeStruct((8, 8), "int32") for i in range(LEAVES)}
PLACES = ("during_meta", "after_arrays", "before_commit", "after_commit", "during_delete")


@pytest.fixture(scope="module")
def crash():
    """A function that runs one writer until it is killed and returns what it saw committed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "ignore", str(CRASHER)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as server:

        def run(directory, where, after):
            order = {"directory": str(directory), "where": where, "after": after, "stock": False}
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield run
        server.stdin.close()


def assert_whole(directory, committed):
    """Reads every listed step, as any reader may do before the run starts again; then starts it."""
    listed = layout.steps(directory)
    assert listed[-1] >= committed, f"step {committed} was committed; only {listed} are listed"
    for step in listed:
        found, meta = reader.restore_step(directory, step, ABSTRACT, verify=True)
        assert meta["tokens"] == step
        for i in range(LEAVES):
            assert np.all(np.asarray(found[f"w{i}"]) == step * LEAVES + i), (step, i)
    with CheckpointManager(directory, CheckpointConfig(keep_last=2)) as manager:
        assert manager.steps() == listed[-2:]
    assert layout.uncommitted(directory) == []
    assert list((directory / layout.TRASH).iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize("where", PLACES)
def test_a_kill_inside_a_save_leaves_whole_steps(crash, tmp_path, where):
    for trial in range(5):
        after = 1 + trial % 3 if where != "during_delete" else 2 + 7 * trial
        ended = crash(tmp_path, where, after)
        assert ended["killed"]
        assert_whole(tmp_path, ended["committed"])
    # A save cut short is removed. One that lacks its commit file alone might be a checkpoint that
    # lost it, so it is kept; so is one of which nothing says when it began, as on a slow disk.
    kept = list(tmp_path.glob("*.corrupt-*"))
    if where == "before_commit":
        assert kept
    else:
        assert not [path for path in kept if (path / layout.ORBAX_FILE).exists()]


@pytest.mark.process
def test_a_kill_while_old_checkpoints_are_removed_leaves_whole_steps(crash, tmp_path):
    pick = random.Random(3)
    for trial in range(30):
        if trial % 2:
            ended = crash(tmp_path, "during_delete", pick.randrange(40))
        else:
            ended = crash(tmp_path, "anywhere", pick.uniform(0.0, 0.5))
        assert ended["killed"]
        assert_whole(tmp_path, ended["committed"])
