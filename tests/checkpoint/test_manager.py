"""A run is saved whole, comes back bit for bit, and survives a bad newest checkpoint."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def make_state(step: int = 0):
    params = {
        "embed": jnp.arange(64, dtype=jnp.float32).reshape(8, 8) + step,
        "head": {"kernel": jnp.full((8, 16), 0.1 * step, jnp.bfloat16)},
    }
    return {
        "params": params,
        "opt_state": optax.adamw(1e-3).init(params),
        "rng": jax.random.key_data(jax.random.key(step)),
        "step": jnp.int32(step),
    }


def abstract(state, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    expected = tree.named_leaves(expected)
    for name, leaf in tree.named_leaves(found).items():
        assert leaf.dtype == expected[name].dtype, name
        assert np.array_equal(np.asarray(leaf), np.asarray(expected[name])), name


def break_arrays(directory, step):
    for path in (directory / str(step) / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def manager(tmp_path):
    with CheckpointManager(tmp_path / "checkpoints", CONFIG) as manager:
        yield manager


def test_what_is_saved_comes_back_bit_for_bit_with_its_classes(manager):
    state = make_state(3)
    manager.save(3, state, {"tokens": 12, "loss": 0.1})
    found, meta = manager.restore(abstract(state))
    assert_same(found, state)
    assert (meta["step"], meta["tokens"], meta["loss"]) == (3, 12, 0.1)


@pytest.mark.parametrize("mesh_shape", [(8, 1), (2, 4), (1, 1)])
def test_another_mesh_restores_the_same_bits(manager, mesh_shape):
    def placed(shape, spec):
        devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
        return NamedSharding(Mesh(devices, ("x", "y")), PartitionSpec(*spec))

    values = np.random.default_rng(0).standard_normal((8, 8), np.float32)
    saved = jax.device_put(values, placed((4, 2), ("x", "y")))
    manager.save(1, {"params": {"w": saved}}, {})
    wanted = placed(mesh_shape, ("y", "x"))
    struct = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=wanted)
    found, _ = manager.restore({"params": {"w": struct}})
    assert found["params"]["w"].sharding == wanted
    assert np.array_equal(np.asarray(found["params"]["w"]), values)
    unplaced, _ = manager.restore({"params": {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}})
    assert unplaced["params"]["w"].devices() == {jax.devices()[0]}


def test_saved_arrays_may_be_donated_at_once(manager):
    @functools.partial(jax.jit, donate_argnums=0)
    def train(state):
        return jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state)

    state = {"params": {"w": jnp.zeros((512, 512))}}
    for step in range(1, 5):
        state = train(state)
        manager.save(step, state, {})
        for _ in range(3):
            state = train(state)
    manager.wait()
    for step in manager.steps():
        found, _ = manager.restore(abstract(state), step)
        assert np.unique(np.asarray(found["params"]["w"])).tolist() == [4.0 * step - 3]


def test_saving_and_restoring_run_where_implicit_transfers_are_forbidden(manager):
    state = make_state(1)
    with jax.transfer_guard("disallow"):
        manager.save(1, state, {}, wait=True)
        found, _ = manager.restore(abstract(state))
    assert_same(found, state)


def test_the_newest_and_every_fourth_are_kept(tmp_path):
    state = make_state()
    with CheckpointManager(tmp_path, CheckpointConfig(keep_last=2, keep_every=4)) as manager:
        assert manager.latest is None
        for step in range(1, 12):
            manager.save(step, state, {})
            manager.check()
    assert manager.steps() == [4, 8, 10, 11]
    assert list((tmp_path / layout.TRASH).iterdir()) == []


def test_a_step_is_never_overwritten(manager):
    manager.save(1, make_state(1), {})
    with pytest.raises(ValueError, match="exists already; a checkpoint is never overwritten"):
        manager.save(1, make_state(2), {})
    assert_same(manager.restore(abstract(make_state()))[0], make_state(1))


def test_a_bad_newest_checkpoint_is_set_aside_and_the_one_before_continues(manager, capsys):
    for step in (1, 2):
        manager.save(step, make_state(step), {}, wait=True)
    break_arrays(manager._directory, 2)
    found, meta = manager.restore(abstract(make_state()))
    assert meta["step"] == 1 == manager.latest
    assert_same(found, make_state(1))
    (aside,) = manager._directory.glob("2.corrupt-*")
    told = capsys.readouterr().err
    assert aside.name in told and "continuing from step 1" in told and "/2: the arrays" in told
    manager.save(2, make_state(2), {}, wait=True)
    assert_same(manager.restore(abstract(make_state()))[0], make_state(2))


def test_a_bad_checkpoint_asked_for_by_number_fails_and_stays(manager):
    for step in (1, 2):
        manager.save(step, make_state(step), {}, wait=True)
    break_arrays(manager._directory, 2)
    with pytest.raises(DataError, match="2: the arrays cannot be read"):
        manager.restore(abstract(make_state()), step=2)
    assert manager.steps() == [1, 2]


def test_an_absent_step_is_answered_with_those_that_exist(manager):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        manager.restore(abstract(make_state()))
    for step in (1, 2):
        manager.save(step, make_state(step), {}, wait=True)
    with pytest.raises(ValueError, match=r"of step 5; it holds 1, 2\."):
        manager.restore(abstract(make_state()), step=5)


@pytest.mark.parametrize("max_fallback, tried", [(1, [3, 2]), (5, [3, 2, 1])])
def test_if_all_are_bad_each_reason_is_told_and_nothing_is_touched(tmp_path, max_fallback, tried):
    config = CheckpointConfig(keep_last=3, max_fallback=max_fallback)
    with CheckpointManager(tmp_path, config) as manager:
        for step in (1, 2, 3):
            manager.save(step, make_state(step), {}, wait=True)
            break_arrays(tmp_path, step)
        for _ in range(2):  # A launcher that starts again finds the same and never begins anew.
            with pytest.raises(OSError, match="no good checkpoint among the newest") as caught:
                manager.restore(abstract(make_state()))
            told = [step for step in (3, 2, 1) if f"{tmp_path}/{step}: " in str(caught.value)]
            assert told == tried
        assert manager.steps() == [1, 2, 3]


def changed(**changes):
    """Returns the abstract state with some params replaced; None removes one."""
    wanted = abstract(make_state())
    params = {**wanted["params"], **changes}
    wanted["params"] = {name: leaf for name, leaf in params.items() if leaf is not None}
    return wanted


EMBED = jax.ShapeDtypeStruct((8, 8), jnp.float32)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"embed": EMBED.update(dtype=jnp.bfloat16)}, "float32[8, 8] in the checkpoint but bfloat"),
        (
            {"embed": EMBED.update(shape=(8, 9))},
            "float32[8, 8] in the checkpoint but float32[8, 9]",
        ),
        ({"embed": EMBED.update(shape=(64,))}, "but float32[64] is asked for"),
        ({"embed": None}, "params/embed is only in the checkpoint"),
        ({"extra": EMBED}, "params/extra is missing in the checkpoint"),
        ({"embed": None, "embedding": EMBED}, "params/embedding is missing in the checkpoint"),
        ({"head": EMBED}, "params/head is missing in the checkpoint"),
        ({"embed": {"w": EMBED}}, "params/embed/w is missing in the checkpoint"),
    ],
    ids=["dtype", "shape", "rank", "missing", "extra", "renamed", "shallower", "deeper"],
)
def test_other_settings_are_told_apart_from_damage(manager, changes, told):
    manager.save(1, make_state(1), {}, wait=True)
    for step in (None, 1):
        with pytest.raises(ValueError, match="was saved with other settings") as caught:
            manager.restore(changed(**changes), step)
        assert told in str(caught.value)
        assert not isinstance(caught.value, DataError)
    assert manager.steps() == [1]


def test_strays_are_neither_believed_nor_deleted(tmp_path, capsys):
    with CheckpointManager(tmp_path, CONFIG) as manager:
        manager.save(1, make_state(1), {})
    (tmp_path / "7").mkdir()
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "notes.txt").write_text("mine")
    (tmp_path / "9").write_text("a file")
    (tmp_path / "10").symlink_to(tmp_path / "1")
    with CheckpointManager(tmp_path, CONFIG) as manager:
        assert manager.latest == 1
        assert manager.restore(abstract(make_state()))[1]["step"] == 1
        for step in (7, 8, 9, 10):
            manager.save(step, make_state(step), {}, wait=True)
        assert manager.steps() == [9, 10]
    assert [path.read_text() for path in tmp_path.glob("8.corrupt-*/notes.txt")] == ["mine"]
    assert [path.read_text() for path in tmp_path.glob("9.corrupt-*")] == ["a file"]
    assert "8 has no commit_success.txt" in capsys.readouterr().err


def test_params_are_read_without_the_optimizer_state(manager):
    state = make_state(2)
    manager.save(2, state, {"tokens": 7}, wait=True)
    directory = manager._directory
    params, meta = reader.restore_params(directory, abstract(state["params"]))
    assert_same(params, state["params"])
    assert meta["tokens"] == 7 == reader.read_meta(directory, 2)["tokens"]
    unplaced = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state["params"])
    assert_same(reader.restore_params(directory, unplaced, step=2)[0], state["params"])
    with pytest.raises(ValueError, match="params/embed is only in the checkpoint"):
        reader.restore_params(directory, {"head": unplaced["head"]})
    break_arrays(directory, 2)
    with pytest.raises(DataError):
        reader.restore_params(directory, unplaced)
    assert manager.steps() == [2]


def test_verification_can_be_turned_off(tmp_path, monkeypatch):
    state = make_state(1)
    with CheckpointManager(tmp_path, CheckpointConfig(keep_last=2, verify=False)) as manager:
        manager.save(1, state, {}, wait=True)
        monkeypatch.setattr(reader, "fingerprints", None)
        assert_same(manager.restore(abstract(state))[0], state)
