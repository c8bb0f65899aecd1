"""What a mesh refuses, and what "auto" is on it."""

import dataclasses
import math
import types

import jax
import pytest
from mesh_training import SETTINGS

from llama_jax.config.lora import LoraConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.telemetry import hardware
from llama_jax.training import parallelism
from llama_jax.training.parallelism import resolve, ring_pays


def resolved(context=4, **changes):
    config = dataclasses.replace(SETTINGS, mesh=MeshConfig(context=context), **changes)
    layout = Layout(make_mesh(config.mesh, jax.devices()), config.sharding)
    return resolve(config, layout)


def compute(**changes):
    return dataclasses.replace(SETTINGS.compute, **changes)


def test_without_a_split_sequence_nothing_changes():
    config = resolved(context=1)
    assert config.compute.context_parallel == "auto"


def test_auto_on_a_tpu_leaves_the_chunk_to_where_it_has_an_effect(monkeypatch):
    said = compute(attention="auto", attention_chunk=2048)
    here = resolved(context=1, compute=said).compute
    assert (here.attention, here.attention_chunk) == ("chunked", 2048)
    monkeypatch.setattr(Layout, "device_kind", "TPU v5")
    data = dataclasses.replace(SETTINGS.data, sequence_length=256)
    model = dataclasses.replace(SETTINGS.model, context=256)
    there = resolved(context=1, compute=said, data=data, model=model).compute
    assert (there.attention, there.attention_chunk) == ("tpu", 128)


def test_an_unknown_chip_gathers():
    assert resolved().compute.context_parallel == "gather"


def test_a_method_that_was_asked_for_stays():
    assert resolved(compute=compute(context_parallel="ring")).compute.context_parallel == "ring"


@pytest.mark.parametrize(
    ("heads", "kv_heads", "shortest"),
    [(32, 32, 2901), (64, 8, 362)],  # 2.4 (K / N) 0.55 * 989e12 / 450e9
)
def test_the_ring_pays_on_an_h100_from_this_length_per_device(heads, kv_heads, shortest):
    chip = hardware.chip("NVIDIA H100 80GB HBM3")
    flops = parallelism.ATTENTION_EFFICIENCY * chip.peak_flops
    for tokens, pays in ((shortest, False), (shortest + 1, True)):
        assert ring_pays(8 * tokens, 8, heads, kv_heads, flops, chip.links.near_bandwidth) is pays


def test_auto_follows_the_formula(monkeypatch):
    # 8 heads of queries and of keys: dealing them out moves 2 / P of what gathering does.
    cases = ((4, 1e9, "ulysses"), (2, 1e9, "gather"), (2, math.inf, "ring"))
    for context, bandwidth, method in cases:
        chip = hardware.Chip(1e12, 16, hardware.Links("ICI", bandwidth))
        monkeypatch.setattr(hardware, "chip", lambda kind, chip=chip: chip)
        assert resolved(context).compute.context_parallel == method


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"context": 1, "compute": compute(context_parallel="ring")},
            "config.compute.context_parallel is 'ring' but no sequence is split",
        ),
        (
            {
                "context": 8,
                "model": dataclasses.replace(SETTINGS.model, heads=4, kv_heads=4),
                "compute": compute(context_parallel="ulysses"),
            },
            "config.compute.context_parallel is 'ulysses' but 8 devices .* deal out 4 query heads",
        ),
        (
            {"compute": compute(attention="tpu", attention_chunk=128)},
            "config.compute.attention is 'tpu' but the devices are 'cpu'; it must be one of",
        ),
        (
            {"compute": compute(attention="gpu", attention_chunk=128)},
            "config.compute.attention is 'gpu' but the devices are 'cpu'; it needs Hopper GPUs",
        ),
        (
            {"compute": compute(attention="gpu_fused", attention_chunk=128)},
            "config.compute.attention is 'gpu_fused' but the devices are 'cpu'; it needs Hopper",
        ),
        (
            {"compute": compute(attention="cudnn", attention_chunk=128)},
            "config.compute.attention 'cudnn' is for NVIDIA GPUs, but this is 'cpu'",
        ),
        (
            {"compute": compute(attention="triton", attention_chunk=128)},
            "config.compute.attention is 'triton' but the devices are 'cpu'; it needs NVIDIA GPUs",
        ),
        (
            {"compute": compute(context_parallel="ring", attention="reference")},
            "config.compute.context_parallel is 'ring' but config.compute.attention is 'reference'",
        ),
        (
            {"init_from": "x", "lora": LoraConfig(r=4, quantization="nf4")},
            "config.lora.quantization is 'nf4' but the mesh splits weights over context, fsdp, and",
        ),
        (
            {"data": dataclasses.replace(SETTINGS.data, sequence_length=28)},
            r"config.data.sequence_length is 28; .* a multiple of 8",
        ),
        (
            {"model": dataclasses.replace(SETTINGS.model, residual_dropout=0.1)},
            "config.model.residual_dropout is set and config.mesh.context splits",
        ),
        (
            {"accumulate": 8},
            r"config.data.batch_size is 8; .* 2 devices that split rows x 8 micro-batches",
        ),
        (
            {"context": 1, "data": dataclasses.replace(SETTINGS.data, batch_size=12)},
            "config.data.batch_size is 12; on this mesh it must be a multiple of 8 devices",
        ),
    ],
)
def test_what_a_mesh_cannot_run_is_refused_in_one_sentence(changes, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        resolved(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "float32"}, "config.compute.dtype is 'float32'"),
        ({"head_dim": 256}, "config.model.head_dim is 256; it must be at most 128"),
    ],
)
def test_what_the_gpu_kernel_cannot_take_is_refused_before_anything_runs(changes, says):
    model = dataclasses.replace(SETTINGS.model, head_dim=changes.get("head_dim", 64))
    dtype = changes.get("dtype", "bfloat16")
    config = dataclasses.replace(
        SETTINGS, model=model, compute=compute(attention="gpu", attention_chunk=128, dtype=dtype)
    )
    hopper = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", ways=lambda name: 1)
    with pytest.raises(ValueError, match=f"config.compute.attention is 'gpu' but {says}"):
        parallelism._with_attention(config, hopper)
