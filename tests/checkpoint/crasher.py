"""Writes checkpoints until it is killed: a server that forks one writer per line of stdin.

A line is JSON: {"directory", "where", "after", "stock"}. `where` names the place of death (see
FAILPOINTS) or is "anywhere"; `after` is how many passes of that place are survived, or for
"anywhere" the seconds after the first commit. The answer is one line: {"committed": step, "killed":
bool}. Imports are paid once; each writer starts JAX anew.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.handlers.json_checkpoint_handler import JsonCheckpointHandler
from orbax.checkpoint._src.path import async_path, atomicity

from llama_jax.checkpoint import layout
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.train import CheckpointConfig

LEAVES = 150
LAST = 40  # Steps a writer makes if nobody kills it.


def make_state(step: int) -> dict[str, jax.Array]:
    return {f"w{i}": jax.numpy.full((8, 8), step * LEAVES + i, "int32") for i in range(LEAVES)}


class Entries(list):
    """What os.scandir returns: can be iterated, and used as a context."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Countdown:
    """Kills this process when it is called for the (n + 1)-th time."""

    def __init__(self, n: int):
        self.left = n

    def __call__(self):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def during_meta(die: Countdown) -> None:
    async def save(self, value, directory):
        path = directory / self._filename
        text = json.dumps(value)
        path.write_text(text[: len(text) // 2])
        die()
        path.write_text(text)

    JsonCheckpointHandler._save_fn = save


def after_arrays(die: Countdown) -> None:
    finalize = atomicity.CommitFileTemporaryPath.finalize

    async def finalize_step(self):
        if self.get_final().name.isdecimal():
            die()
        await finalize(self)

    atomicity.CommitFileTemporaryPath.finalize = finalize_step


def around_commit(die_before, die_after) -> None:
    write_text = async_path.write_text

    async def write(path, text):
        is_commit = path.name == layout.COMMIT_FILE and path.parent.name.isdecimal()
        if is_commit:
            die_before()
        await write_text(path, text)
        if is_commit:
            die_after()

    async_path.write_text = write


def during_delete(die: Countdown) -> None:
    """Deletes the commit file last: in which order a folder is listed is up to the file system."""
    unlink, scandir = os.unlink, os.scandir

    def scandir_commit_last(*args):
        with scandir(*args) as entries:
            return Entries(sorted(entries, key=lambda entry: entry.name == layout.COMMIT_FILE))

    def unlink_one(*args, **kwargs):
        die()
        unlink(*args, **kwargs)

    os.unlink = unlink_one
    os.scandir = scandir_commit_last


FAILPOINTS = {
    "during_meta": during_meta,
    "after_arrays": after_arrays,
    "before_commit": lambda die: around_commit(die, lambda: None),
    "after_commit": lambda die: around_commit(lambda: None, die),
    "during_delete": during_delete,
}


def write(directory: Path, tell, stock: bool) -> None:
    jax.config.update("jax_platforms", "cpu")
    if stock:
        write_stock(directory, tell)
        return
    with CheckpointManager(directory, CheckpointConfig(keep_last=2)) as manager:
        start = (manager.latest or 0) + 1
        for step in range(start, start + LAST):
            manager.save(step, make_state(step), {"tokens": step})
            manager.wait()
            tell(step)


def write_stock(directory: Path, tell) -> None:
    """The same with orbax's own manager and retention, for comparison."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(directory, options=options) as manager:
        start = (manager.latest_step() or 0) + 1
        for step in range(start, start + LAST):
            manager.save(step, args=ocp.args.PyTreeSave(make_state(step)))
            manager.wait_until_finished()
            tell(step)


def run(order: dict) -> dict:
    """Returns how a forked writer ended, and the last step that it saw committed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if order["where"] in FAILPOINTS:
            FAILPOINTS[order["where"]](Countdown(order["after"]))
        write(Path(order["directory"]), lambda s: os.write(writing, b"%d\n" % s), order["stock"])
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 64)  # The first commit, or nothing if it died before.
    if order["where"] == "anywhere":
        time.sleep(order["after"])
        os.kill(child, signal.SIGKILL)
    while select.select([reading], [], [])[0] and (more := os.read(reading, 4096)):
        told += more
    os.close(reading)
    _, status = os.waitpid(child, 0)
    steps = [int(word) for word in told.split()]
    return {"committed": max(steps, default=0), "killed": os.WIFSIGNALED(status)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
