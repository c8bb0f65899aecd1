"""A full disk fails the save, keeps the checkpoints before it, and does not fail the next save."""

import gc
import os
import shutil
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.checkpoint import manager as module
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.train import CheckpointConfig

# Orbax leaves the other half-done coroutines of a failed read or write to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

CONFIG = CheckpointConfig(keep_last=2)


@pytest.fixture(autouse=True)
def collect_what_orbax_left():
    """Keeps those warnings inside the test that caused them."""
    yield
    gc.collect()


SIZE = 8 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def make_state(step):
    noise = np.random.default_rng(step).standard_normal((512, 512), np.float32)  # 1 MiB.
    return {"params": {"w": jnp.asarray(noise)}}


ABSTRACT = {"params": {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}}


def assert_restores(manager, step):
    found, _ = manager.restore(ABSTRACT, step)
    assert np.array_equal(found["params"]["w"], make_state(step)["params"]["w"])


@pytest.mark.process
@pytest.mark.parametrize("noticed_by", ["wait", "check", "save", "close"])
def test_a_disk_that_fills_while_saving_costs_only_that_save(small_disk, monkeypatch, noticed_by):
    manager = CheckpointManager(small_disk / "run", CONFIG)
    for step in (1, 2):
        manager.save(step, make_state(step), {}, wait=True)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**19))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    with pytest.raises(OSError, match=r"3 could not be saved .*are intact: 1, 2\."):
        manager.save(3, make_state(3), {})
        if noticed_by == "check":
            while True:
                manager.check()
        elif noticed_by == "save":
            manager.save(4, make_state(4), {})
        elif noticed_by == "wait":
            manager.wait()
        else:
            manager.close()
    monkeypatch.undo()
    if noticed_by == "close":
        manager = CheckpointManager(small_disk / "run", CONFIG)
    manager.check()
    assert manager.steps() == [1, 2]
    assert not (small_disk / "run" / "3").exists()
    assert_restores(manager, 2)
    assert_restores(manager, 1)

    filler.unlink()
    manager.save(3, make_state(3), {}, wait=True)
    assert manager.steps() == [2, 3]
    assert_restores(manager, 3)
    manager.close()


@pytest.mark.process
def test_a_save_that_cannot_fit_is_refused_before_anything_is_written(small_disk):
    with CheckpointManager(small_disk / "run", CONFIG) as manager:
        manager.save(1, make_state(1), {}, wait=True)
        filler = small_disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**19))
        with pytest.raises(OSError, match=r"has 0\.\d MiB free; .* are intact: 1\."):
            manager.save(2, make_state(2), {})
        assert not (small_disk / "run" / "2").exists()
        filler.unlink()
        manager.save(2, make_state(2), {}, wait=True)
        assert manager.steps() == [1, 2]


@pytest.mark.process
def test_the_first_save_is_measured_too(small_disk):
    with CheckpointManager(small_disk / "run", CONFIG) as manager:
        with pytest.raises(OSError, match="There is none yet"):
            manager.save(1, {"params": {"w": jnp.zeros((3, 1024, 1024))}}, {})
        assert manager.steps() == []
