"""No damage to any file of a checkpoint is ever restored silently."""

import gc
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.checkpoint import layout, reader
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.train import CheckpointConfig
from llama_jax.core import tree
from llama_jax.core.errors import DataError

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


FLIPS = 20  # Per file.
META = {"tokens": 12345, "data": {"seed": 7, "position": 99}}


def make_state(step: int):
    noise = np.random.default_rng(step)
    return {
        "params": {
            name: jnp.asarray(noise.standard_normal((16, 16), np.float32)) for name in "abc"
        },
        "opt_state": {"mu": jnp.asarray(noise.standard_normal(300, np.float32))},
        "step": jnp.int32(step),
    }


STATE = make_state(2)
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original")
    with CheckpointManager(directory, CONFIG) as manager:
        for step in (1, 2):
            manager.save(step, make_state(step), META)
    return directory


def files_of(directory):
    return sorted(path for path in (directory / "2").rglob("*") if path.is_file())


def is_silently_wrong(directory) -> bool:
    """True if step 2 is restored without an error but is not what was saved."""
    try:
        found, meta = reader.restore_step(directory, 2, ABSTRACT, verify=True)
    except DataError:
        return False
    same = jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), found, STATE)
    )
    return not same or {name: meta[name] for name in META} != META


def test_a_flipped_bit_in_any_file_is_never_restored_silently(original):
    pick = random.Random(0)
    trials = wrong = 0
    for path in files_of(original):
        data = path.read_bytes()
        for _ in range(FLIPS):
            place, bit = pick.randrange(len(data)), pick.randrange(8)
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            trials += 1
            wrong += is_silently_wrong(original)
        path.write_bytes(data)
    assert trials >= 200
    assert wrong == 0, f"{wrong} of {trials}"
    assert not is_silently_wrong(original)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, empty, delete])
def test_a_damaged_file_is_harmless_or_the_step_before_continues(original, tmp_path, damage):
    for number, file in enumerate(files_of(original)):
        directory = tmp_path / str(number)
        shutil.copytree(original, directory)
        damage(directory / file.relative_to(original))
        with CheckpointManager(directory, CONFIG) as manager:
            found, meta = manager.restore(ABSTRACT)
        expected = make_state(meta["step"])
        for name, leaf in tree.named_leaves(found).items():
            assert np.array_equal(leaf, tree.named_leaves(expected)[name]), (file, name)
        kept = list(directory.glob("2*"))
        assert len(kept) == 1, file  # In place or set aside, never deleted.
        assert (kept[0].name == "2") == (meta["step"] == 2), file
        shutil.rmtree(directory)


@pytest.mark.parametrize("item", [layout.STATE, layout.META])
def test_a_missing_item_makes_the_step_before_continue(original, tmp_path, item):
    directory = tmp_path / "copy"
    shutil.copytree(original, directory)
    shutil.rmtree(directory / "2" / item)
    with CheckpointManager(directory, CONFIG) as manager:
        assert manager.restore(ABSTRACT)[1]["step"] == 1
    assert len(list(directory.glob("2.corrupt-*"))) == 1


def test_arrays_of_another_step_are_recognised(original, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(original, directory)
    shutil.rmtree(directory / "2" / layout.STATE)
    shutil.copytree(directory / "1" / layout.STATE, directory / "2" / layout.STATE)
    with pytest.raises(DataError, match="5 of 5 arrays differ from their fingerprint"):
        reader.restore_step(directory, 2, ABSTRACT, verify=True)
