"""The order in which changes are tried, and which one is printed."""

import dataclasses
import types

import pytest

from llama_jax.planning import advice
from llama_jax.planning import plan as planning

MESH = {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}


@pytest.fixture
def remat_none(config):
    compute = dataclasses.replace(config.compute, remat="attention")
    data = dataclasses.replace(config.data, batch_size=32)
    return dataclasses.replace(config, compute=compute, data=data)


def test_candidates_come_in_the_stated_order(remat_none):
    changes = list(advice.candidates(remat_none, MESH, decode=False))
    assert changes[:6] == [
        {"compute.remat": "full"},
        {"compute.remat": "offload"},
        {"accumulate": 2},
        {"accumulate": 4},  # 32 rows on 8 devices that split rows: one each
        {"mesh.data": 1, "mesh.fsdp": 8},
        {"compute.remat": "full", "accumulate": 4, "mesh.data": 1, "mesh.fsdp": 8},
    ]
    assert changes[6] == {
        "compute.remat": "full", "accumulate": 8, "mesh.data": 1, "mesh.fsdp": 4, "mesh.context": 2
    }  # fmt: skip
    axes = [
        axis for change in changes[6:] for axis in change if axis in ("mesh.context", "mesh.tensor")
    ]
    assert axes == ["mesh.context"] * 3 + ["mesh.tensor"] * 3


def test_a_change_reaches_the_setting_and_its_checks(config):
    found = advice.changed(config, {"compute.remat": "none", "accumulate": 4, "mesh.fsdp": 2})
    assert (found.compute.remat, found.accumulate, found.mesh.fsdp) == ("none", 4, 2)
    assert found.model == config.model
    with pytest.raises(ValueError, match="must be a multiple of accumulate"):
        advice.changed(config, {"accumulate": 3})


def plan_of(peak, fits, state=10):
    memory = types.SimpleNamespace(peak=peak, parameters=state, optimizer=0, usable=100)
    return types.SimpleNamespace(
        memory=memory, fits=fits, mesh=MESH, topology=types.SimpleNamespace(count=8)
    )


def test_the_first_change_that_fits_ends_the_search(remat_none, monkeypatch):
    tried = []

    def make(config, topology, decode):
        tried.append((config.compute.remat, config.accumulate))
        if config.compute.remat == "offload":
            raise ValueError("not here")
        fits = config.accumulate == 4
        return plan_of(50 if fits else 200, fits)

    monkeypatch.setattr(planning, "make", make)
    found = advice.search(remat_none, plan_of(300, False))
    assert tried == [("full", 1), ("offload", 1), ("attention", 2), ("attention", 4)]
    assert found.best.flags == "--config.accumulate=4"
    assert found.trials[1].note == "not here"
    assert found.text().endswith("The smallest change that fits: --config.accumulate=4")
    assert found.as_json()["best"] == "--config.accumulate=4"


def test_where_nothing_fits_it_says_so(remat_none, monkeypatch):
    monkeypatch.setattr(planning, "make", lambda *_: plan_of(200, False))
    found = advice.search(remat_none, plan_of(300, False))
    assert found.best is None
    assert "Nothing that was tried fits" in found.text()


def test_a_state_that_is_too_large_for_the_devices_compiles_nothing(remat_none, monkeypatch):
    monkeypatch.setattr(planning, "make", None)
    made = plan_of(300, False, state=250)
    made.mesh = {"data": 1, "fsdp": 4, "context": 2, "tensor": 1}
    found = advice.search(remat_none, made)
    monkeypatch.setattr(planning, "make", lambda *_: plan_of(90, True))
    made.memory.parameters = 99  # Just fits: then settings may help, and are tried.
    assert len(advice.search(remat_none, made).trials) == 1
    # 250 of 100 on 8 devices: 20 hold it.
    assert found.trials == () and "at least 20 devices" in found.reason
