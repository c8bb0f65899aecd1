"""Whole plans: of simulated devices, and of hardware that is not here."""

import dataclasses
import importlib.util
import json

import pytest

from llama_jax.core import compilers
from llama_jax.planning import plan, topology
from llama_jax.telemetry import flops

KEYS = {
    "program", "topology", "devices", "device_kind", "chip", "mesh", "memory", "work",
    "collectives", "memory_bytes", "roofline", "out_of_memory", "lower_seconds", "compile_seconds",
    "program_bytes", "fits", "settings",
}  # fmt: skip
MEMORY = {
    "parameters", "optimizer", "gradients", "activations", "temporaries", "inputs", "cache", "peak",
    "usable",
}  # fmt: skip


def test_json_has_the_same_keys_always(config):
    made = plan.make(config, topology.parse("cpu:8"))
    values = json.loads(json.dumps(plan.as_json(made, config), allow_nan=False))
    assert values.keys() == KEYS and values["memory"].keys() == MEMORY
    assert values["topology"] == "cpu:8" and values["devices"] == 8
    assert values["fits"] is None and values["roofline"] is None
    assert values["settings"]["data"]["batch_size"] == 16
    names = {
        "kind",
        "axes",
        "link",
        "group",
        "times",
        "bytes",
        "bandwidth",
        "seconds",
        "largest",
        "largest_bytes",
    }
    assert all(found.keys() == names for found in values["collectives"])


def test_the_mesh_decides_which_axes_talk(config):
    mesh = dataclasses.replace(config.mesh, data=2, fsdp=2, tensor=2)
    made = plan.make(dataclasses.replace(config, mesh=mesh), topology.parse("cpu:8"))
    assert made.mesh["data"] == made.mesh["fsdp"] == made.mesh["tensor"] == 2
    # Replicas sum their gradients: all float32 parameters of one part, 2 x 1/2 of it.
    sums = [found for found in made.collectives if "data" in found.axes]
    assert sums
    assert {found.link for found in made.collectives} == {"memory"}


def test_a_batch_that_does_not_divide_is_refused(config):
    data = dataclasses.replace(config.data, batch_size=12)
    with pytest.raises(ValueError, match=r"data\.batch_size is 12; .* a multiple of 8"):
        plan.make(dataclasses.replace(config, data=data), topology.parse("cpu:8"))


def test_decoding_holds_a_cache_and_counts_one_token(config):
    made = plan.make(config, topology.parse("cpu:8"), decode=True)
    assert made.program == "decode step"
    # Keys and values: 2 x L x B x S x K x H float32 for 8 rows on 8 devices, and the length.
    assert made.memory.cache == 2 * 3 * 1 * 64 * 2 * 16 * 4 + 4
    assert made.memory.optimizer == made.memory.gradients == 0
    assert made.work.tokens == 1
    assert made.work.model == flops.per_decoded_token(config.model, 64)


def available(name):
    module = {"tpu": "libtpu", "gpu": "jax_plugins"}[name.partition(":")[0]]
    if importlib.util.find_spec(module) is None:
        pytest.skip("no compiler for it here: pip install -e '.[plan]'")
    compilers.without_accelerators()
    return topology.parse(name)


@pytest.mark.parametrize("name", ["tpu:v5e:2x4", "gpu:h100:8"])
def test_a_step_is_compiled_for_hardware_that_is_not_here(name, config):
    hardware = available(name)
    made = plan.make(config, hardware)
    assert made.fits and made.roofline
    assert made.memory.parameters < made.memory.peak < made.memory.usable
    assert {found.link for found in made.collectives} == {made.chip.links.near}
    assert {term.name for term in made.roofline.terms} == {"compute", "HBM", made.chip.links.near}
    # The same work and the same state as on any eight devices.
    simulated = plan.make(config, topology.parse("cpu:8"))
    assert made.work == simulated.work
    assert made.memory.parameters == simulated.memory.parameters
    assert made.memory.activations == simulated.memory.activations


@pytest.mark.parametrize("name", ["tpu:v5p:2x2x2", "gpu:h100:8"])
def test_micro_batches_are_compiled_for_hardware_that_is_not_here(name, config):
    data = dataclasses.replace(config.data, batch_size=16)
    compute = dataclasses.replace(config.compute, dtype="bfloat16")
    config = dataclasses.replace(config, data=data, compute=compute, accumulate=2)
    assert plan.make(config, available(name)).fits


@pytest.mark.parametrize(
    ("attention", "method"),
    [*(("gpu", m) for m in ("none", "gather", "ring", "ulysses")), ("gpu_fused", "ring")],
)
def test_the_kernels_for_gpus_are_compiled_in_the_step(attention, method, config):
    parallel, mesh = "auto", config.mesh
    if method != "none":
        parallel, mesh = method, dataclasses.replace(mesh, fsdp=4, context=2)
    compute = dataclasses.replace(
        config.compute,
        dtype="bfloat16",
        attention=attention,
        attention_chunk=128,
        context_parallel=parallel,
    )
    config = dataclasses.replace(config, compute=compute, mesh=mesh)
    assert plan.make(config, available("gpu:h100:8")).fits


def test_gpus_of_two_nodes_talk_over_infiniband(config):
    hardware = available("gpu:h100:16")
    mesh = dataclasses.replace(config.mesh, data=2, fsdp=8)
    made = plan.make(dataclasses.replace(config, mesh=mesh), hardware)
    assert {found.link for found in made.collectives if "data" in found.axes} == {"IB"}
    assert {found.link for found in made.collectives if found.axes == ("fsdp",)} == {"NVLink"}


def test_running_out_of_memory_is_an_answer(config):
    hardware = available("tpu:v5e:2x2")
    model = dataclasses.replace(config.model, embed=4096, vocab=1_024_000)
    made = plan.make(dataclasses.replace(config, model=model), hardware)
    assert made.fits is False and made.roofline is None
    assert "emory" in made.out_of_memory
    assert made.memory.peak > made.memory.usable
    # What shapes alone say is still exact: 4 N bytes / 4 devices, most of it the two tables.
    assert made.memory.parameters > 2 * 1_024_000 * 4096
