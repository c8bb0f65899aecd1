"""MeshConfig -> jax Mesh."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from llama_jax.config.mesh import MeshConfig


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over all devices with the axes of MeshConfig, neighbours close in hardware.

    Raises:
        ValueError: The axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": config.data, "fsdp": config.fsdp, "tensor": config.tensor}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    free = [axis for axis, size in sizes.items() if size == -1]
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        advice = f"--config.mesh.{(free or ['fsdp'])[0]}=-1"
        raise ValueError(
            f"config.mesh: {'*'.join(a for a in sizes if a not in free)} is {fixed} but "
            f"{len(devices)} devices are attached. Choose axes that multiply to the number of "
            f"devices, one of them -1, e.g. {advice} and the others 1."
        )
    shape = tuple(sizes.values())
    return Mesh(mesh_utils.create_device_mesh(shape, devices), tuple(sizes))
