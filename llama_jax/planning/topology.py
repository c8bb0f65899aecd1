"""Names of hardware -> device descriptions to compile for; nothing of it needs to be here.

tpu:v5p:4x4x4       one slice; tpu:v5p:4x4x4:2 is two slices joined by the data-center network
gpu:h100:64         nodes of 8 with NVLink inside and InfiniBand between
cpu:8               simulated devices of this machine

A v5p slice is named by chips here; Google's v5p-128 counts cores and is 4x4x4.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from llama_jax.core import compilers
from llama_jax.telemetry import hardware
from llama_jax.telemetry.hardware import Chip

GPUS_PER_NODE = 8  # DGX and HGX systems.
DESCRIPTIONS = Path(__file__).parent / "devices"
# Dimensions of a slice, and the length from which a dimension is closed to a ring:
# cloud.google.com/tpu/docs/{v5e,v6e,v5p}: v5e and v6e at 16 (a whole pod), v5p in cubes of 4.
TPUS = {"v5e": (2, 16), "v6e": (2, 16), "v5p": (3, 4)}
GPUS = ("h100", "h200")
NAMES = "tpu:v5e:4x4, tpu:v6e:8x8, tpu:v5p:4x4x4, gpu:h100:8, gpu:h200:64, cpu:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Hardware by name, before any device of it is described."""

    name: str
    platform: str  # "tpu", "gpu" or "cpu"
    model: str  # "v5p", "h100"; "cpu"
    shape: tuple[int, ...]  # Chips of a slice along each dimension; (nodes, GPUs); (devices,)
    slices: int = 1

    @property
    def count(self) -> int:
        """Returns the number of devices."""
        return self.slices * math.prod(self.shape)

    def closed(self, dim: int) -> bool:
        """True if the slice's dimension is a ring, so that both directions carry traffic."""
        ring = TPUS[self.model][1]
        return self.shape[dim] >= ring and self.shape[dim] % ring == 0


def parse(name: str) -> Topology:
    """Returns the hardware that `name` describes.

    Raises:
        ValueError: There is none of that name; the message lists what there is.
    """
    platform, _, rest = name.partition(":")
    model, _, size = rest.partition(":")
    if platform == "cpu" and (count := _number(rest)):
        return Topology(name, "cpu", "cpu", (count,))
    if platform == "gpu" and model in GPUS and (count := _number(size)):
        return Topology(name, "gpu", model, _nodes(name, count))
    if platform == "tpu" and model in TPUS:
        found = re.fullmatch(r"(\d+(?:x\d+)+)(?::(\d+))?", size)
        shape = tuple(int(n) for n in found[1].split("x")) if found else ()
        if found and len(shape) == TPUS[model][0] and min(shape) > 0 and found[2] != "0":
            return Topology(name, "tpu", model, shape, int(found[2] or 1))
        dims = "x".join(["4"] * TPUS[model][0])
        raise ValueError(
            f"--topology is {name!r}; a {model} slice has {TPUS[model][0]} dimensions, as in "
            f"tpu:{model}:{dims}, or tpu:{model}:{dims}:2 for two slices."
        )
    raise ValueError(f"--topology is {name!r}; it must be like one of {NAMES}.")


def devices(topology: Topology) -> list[Any]:
    """Returns descriptions of all devices, for a mesh and a compiler.

    Raises:
        ValueError: A package is missing, or the compiler knows no such slice.
    """
    if topology.platform == "cpu":
        return _simulated(topology.count)
    if topology.platform == "tpu":
        compilers.need("libtpu", "TPUs")
        name = f"{topology.model}:{'x'.join(map(str, topology.shape))}"
        asked: dict[str, Any] = {"topology_name": name, "platform": "tpu"}
        if topology.slices > 1:
            asked["num_slices"] = topology.slices
    else:
        compilers.need("jax_plugins.xla_cuda13", "GPUs")
        text = (DESCRIPTIONS / f"{topology.model}.txtpb").read_text()
        nodes, gpus = topology.shape
        # XLA counts slices x hosts x GPUs of one host.
        asked = {"target_config": text, "topology": f"1x{nodes}x{gpus}", "platform": "cuda"}
    try:
        return list(topologies.get_topology_desc(**asked).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--topology is {topology.name!r}; the compiler says: {reason}") from None


def chip(devices: Sequence[Any]) -> Chip | None:
    """Returns the limits of these devices; None for a CPU."""
    return hardware.chip(devices[0].device_kind)


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[1-9]\d*", text) else 0


def _nodes(name: str, count: int) -> tuple[int, int]:
    if count > GPUS_PER_NODE and count % GPUS_PER_NODE:
        raise ValueError(
            f"--topology is {name!r}; more than {GPUS_PER_NODE} GPUs must be whole nodes: "
            f"a multiple of {GPUS_PER_NODE}."
        )
    gpus = min(count, GPUS_PER_NODE)
    return count // gpus, gpus


def _simulated(count: int) -> list[Any]:
    """Returns so many CPU devices; the number can be set until the first is used."""
    with contextlib.suppress(RuntimeError):  # In use already, as in tests: there may be enough.
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices("cpu")
    if len(found) < count:
        raise ValueError(
            f"--topology asks for {count} CPU devices but this process started with {len(found)}. "
            "Use a process of its own: python -m llama_jax.plan ..."
        )
    return found[:count]
