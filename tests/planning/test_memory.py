"""Bytes by kind, by hand, on a tiny model compiled for eight simulated devices."""

import dataclasses

import jax.numpy as jnp
import pytest

from llama_jax.config.lora import LoraConfig
from llama_jax.planning import hlo, memory, program, topology

# 256 x 64 embedding and head; in each of 3 layers q 64 x 64, k and v 64 x 32, o 64 x 64, three of
# 64 x 128, two norms of 64; a last norm of 64.
MATRICES = 2 * 256 * 64 + 3 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
NORMS = (3 * 2 + 1) * 64


@pytest.fixture
def compiled(config):
    def make(**changes):
        hardware = topology.parse("cpu:8")
        changed = dataclasses.replace(config, **changes)
        return program.compile(changed, hardware, topology.devices(hardware))

    return make


def test_parameters_and_moments_of_one_of_eight_devices(compiled):
    lowered = compiled().lowered
    # Matrices are split over fsdp=8, norms are whole; float32.
    assert memory.local_bytes(lowered.parameters) == 4 * (MATRICES // 8 + NORMS)
    # Two moments of each, and optax's two counts.
    found = memory.local_bytes(lowered.moments)
    assert found == 2 * 4 * (MATRICES // 8 + NORMS) + 2 * 4


def test_gradients_are_split_like_the_parameters(compiled):
    lowered = compiled().lowered
    half = memory.gradient_bytes(lowered.parameters, jnp.dtype("bfloat16"))
    assert half == 2 * (MATRICES // 8 + NORMS)


def test_adapters_alone_have_gradients_and_moments(compiled):
    lowered = compiled(init_from="unused", lora=LoraConfig(r=8)).lowered
    # q and v: a is split over fsdp=8 by its inputs, b of 64 and 32 outputs is whole.
    adapters = 3 * 8 * (64 // 8 + 64 + 64 // 8 + 32)
    assert memory.local_bytes(lowered.parameters) == 4 * (MATRICES // 8 + NORMS + adapters)
    assert memory.local_bytes(lowered.moments) == 2 * 4 * adapters + 2 * 4
    assert memory.gradient_bytes(lowered.trained, jnp.dtype("bfloat16")) == 2 * adapters


def test_full_remat_stacks_the_inputs_of_the_layers_and_nothing_else(compiled, config):
    found = compiled()
    module = hlo.parse(found.text)
    stacked = memory.stacked_bytes(module, config.model.layers, found.lowered.parameters)
    # L x B x T x D float32 of all rows, split eight ways.
    assert stacked == 3 * 16 * 64 * 64 * 4 // 8


def test_less_remat_stacks_more(compiled, config):
    compute = dataclasses.replace(config.compute, remat="minimal")
    sizes = []
    for found in (compiled(), compiled(compute=compute)):
        module = hlo.parse(found.text)
        sizes.append(memory.stacked_bytes(module, 3, found.lowered.parameters))
    assert sizes[1] > 2 * sizes[0]


def divided(**changes):
    sizes = {
        "peak": 1000,
        "arguments": 350,
        "parameters": 100,
        "optimizer": 200,
        "gradients": 100,
        "activations": 300,
        "cache": 0,
        "usable": 1200,
    }
    return memory.divide(**(sizes | changes))


def test_the_kinds_add_up_to_the_peak():
    found = divided()
    assert (found.inputs, found.temporaries) == (50, 250)
    kinds = dataclasses.asdict(found)
    peak, _ = kinds.pop("peak"), kinds.pop("usable")
    assert sum(kinds.values()) == peak == 1000


def test_what_is_estimated_never_exceeds_what_was_measured():
    found = divided(peak=600)
    assert (found.gradients, found.activations, found.temporaries) == (100, 150, 0)
    assert (
        sum(v for k, v in dataclasses.asdict(found).items() if k not in ("peak", "usable")) == 600
    )


def test_a_chip_of_unknown_size_says_nothing_about_fitting():
    assert divided().fits is True
    assert divided(usable=999).fits is False
    assert divided(usable=None).fits is None
