"""One plan: everything that is known of a program on a topology."""

import dataclasses
import math
from typing import Any

from jax import numpy as jnp

from llama_jax.config import load
from llama_jax.config.train import TrainConfig
from llama_jax.planning import collectives, hlo, memory, program, roofline, topology, traffic
from llama_jax.planning.collectives import Collective
from llama_jax.planning.memory import Memory
from llama_jax.planning.program import Compiled
from llama_jax.planning.roofline import Roofline, Work
from llama_jax.planning.topology import Topology
from llama_jax.telemetry.hardware import GIB, Chip


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a program needs, per device, and how fast it can be."""

    program: str  # "train step" or "decode step"
    topology: Topology
    device_kind: str
    chip: Chip | None
    mesh: dict[str, int]
    memory: Memory
    work: Work
    collectives: tuple[Collective, ...]
    memory_bytes: int  # Read and written in main memory, one step.
    roofline: Roofline | None  # None without a chip's rates, or where compilation ran out.
    out_of_memory: str  # The compiler's words; "" where it compiled.
    lower_seconds: float
    compile_seconds: float
    program_bytes: int  # Of the program as text.

    @property
    def fits(self) -> bool | None:
        """True if it compiled and its peak is at most the chip's memory; None if unknown."""
        return False if self.out_of_memory else self.memory.fits


def make(config: TrainConfig, topology_: Topology, decode: bool = False) -> Plan:
    """Returns the plan of `python -m llama_jax.train` with these settings, or of decoding.

    Raises:
        ValueError: The settings do not fit the topology, or its compiler is not installed.
    """
    devices = topology.devices(topology_)
    chip = topology.chip(devices)
    compiled = program.compile(config, topology_, devices, decode)
    layout = compiled.lowered.layout
    mesh = layout.mesh
    if decode:
        work = roofline.decode_work(config, layout.ways("batch"), len(devices))
    else:
        work = roofline.train_work(config, len(devices))
    parts: dict[str, Any] = {"collectives": (), "memory_bytes": 0, "roofline": None}
    module = None if compiled.out_of_memory else hlo.parse(compiled.text)
    if module:
        found = collectives.find(module, mesh, topology_, chip)
        moved = traffic.main_memory_bytes(module)
        parts = {"collectives": tuple(found), "memory_bytes": moved}
        parts["roofline"] = chip and roofline.roofline(work, moved, found, chip)
    return Plan(
        program="decode step" if decode else "train step",
        topology=topology_,
        device_kind=devices[0].device_kind,
        chip=chip,
        mesh={str(axis): size for axis, size in mesh.shape.items()},
        memory=_memory(config, compiled, module, chip, decode),
        work=work,
        out_of_memory=compiled.out_of_memory,
        lower_seconds=compiled.lower_seconds,
        compile_seconds=compiled.compile_seconds,
        program_bytes=len(compiled.text),
        **parts,
    )


def as_json(plan: Plan, config: TrainConfig) -> dict[str, Any]:
    """Returns the plan as plain values; the keys stay as they are from version to version."""
    values = dataclasses.asdict(plan)
    values["topology"] = plan.topology.name
    values["devices"] = plan.topology.count
    values["fits"] = plan.fits
    values["settings"] = load.as_dict(config)
    for found, value in zip(plan.collectives, values["collectives"], strict=True):
        value["seconds"] = found.seconds
    return _finite(values)


def _memory(
    config: TrainConfig,
    compiled: Compiled,
    module: hlo.Module | None,
    chip: Chip | None,
    decode: bool,
) -> Memory:
    lowered = compiled.lowered
    held = memory.local_bytes(lowered.moments)
    usable = int(chip.usable_gib * GIB) if chip and chip.usable_gib else None
    gradients = activations = 0
    if not decode:
        dtype = config.accumulate_dtype if config.accumulate > 1 else config.compute.dtype
        gradients = memory.gradient_bytes(lowered.trained, jnp.dtype(dtype))
        if module:
            layers = config.model.layers
            activations = memory.stacked_bytes(module, layers, lowered.parameters)
    return memory.divide(
        peak=compiled.peak_bytes,
        arguments=compiled.argument_bytes,
        parameters=memory.local_bytes(lowered.parameters),
        optimizer=0 if decode else held,
        gradients=gradients,
        activations=activations,
        cache=held if decode else 0,
        usable=usable,
    )


def _finite(value: Any) -> Any:
    """Returns the value with infinities, which JSON does not have, as words."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
