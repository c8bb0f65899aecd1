"""Names of hardware, and what is said where they are wrong or a compiler is missing."""

import importlib.util

import jax
import pytest

from llama_jax.core import compilers
from llama_jax.planning import topology


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [
        ("tpu:v5p:4x4x8", 128, (4, 4, 8)),
        ("tpu:v5e:16x16", 256, (16, 16)),
        ("tpu:v6e:8x8", 64, (8, 8)),
        ("gpu:h100:8", 8, (1, 8)),
        ("gpu:h200:64", 64, (8, 8)),
        ("gpu:h100:4", 4, (1, 4)),
        ("cpu:8", 8, (8,)),
    ],
)
def test_a_name_says_how_many_devices_and_how_they_lie(name, count, shape):
    found = topology.parse(name)
    assert (found.count, found.shape, found.slices) == (count, shape, 1)


def test_slices_are_counted_behind_the_shape():
    found = topology.parse("tpu:v5e:16x16:4")
    assert (found.count, found.slices) == (1024, 4)


def test_long_dimensions_are_rings():
    v5e, v5p = topology.parse("tpu:v5e:8x16"), topology.parse("tpu:v5p:2x4x8")
    assert [v5e.closed(0), v5e.closed(1)] == [False, True]
    assert [v5p.closed(0), v5p.closed(1), v5p.closed(2)] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must be like one of tpu:v5e:4x4"),
        ("tpu:v9:4x4", "must be like one of"),
        ("gpu:h100", "must be like one of"),
        ("gpu:a100:8", "must be like one of"),
        ("gpu:h100:0", "must be like one of"),
        ("cpu:many", "must be like one of"),
        ("tpu:v5p:4x4", "a v5p slice has 3 dimensions, as in tpu:v5p:4x4x4"),
        ("tpu:v5e:0x4", "a v5e slice has 2 dimensions"),
        ("gpu:h100:12", "must be whole nodes: a multiple of 8"),
    ],
)
def test_a_wrong_name_is_answered_with_what_there_is(name, message):
    with pytest.raises(ValueError, match=message):
        topology.parse(name)


def test_too_many_simulated_devices_are_refused():
    jax.devices()  # From here on their number stands.
    with pytest.raises(ValueError, match="asks for 4096 CPU devices but this process"):
        topology.devices(topology.parse("cpu:4096"))


@pytest.mark.parametrize("name", ["tpu:v5e:2x2", "gpu:h100:8"])
def test_a_missing_compiler_is_answered_with_what_to_type(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=r"pip install -c constraints.txt -e '.\[plan\]'"):
        topology.devices(topology.parse(name))


def installed(name):
    module = {"tpu": "libtpu", "gpu": "jax_plugins"}[name.partition(":")[0]]
    return importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("name", ["tpu:v5p:2x2x2", "tpu:v5e:4x4:2", "gpu:h100:16", "gpu:h200:8"])
def test_devices_are_described_without_having_them(name):
    if not installed(name):
        pytest.skip("no compiler for it here: pip install -e '.[plan]'")
    compilers.without_accelerators()
    found = topology.parse(name)
    devices = topology.devices(found)
    assert len(devices) == found.count
    chip = topology.chip(devices)
    assert chip.usable_gib and chip.memory_bandwidth and chip.links


def test_a_slice_that_no_compiler_knows_is_an_error():
    if not installed("tpu"):
        pytest.skip("no compiler for it here: pip install -e '.[plan]'")
    compilers.without_accelerators()
    with pytest.raises(ValueError, match="the compiler says"):
        topology.devices(topology.parse("tpu:v5e:3x5"))
