"""MeshConfig -> jax Mesh."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from llama_jax.config.mesh import MeshConfig

AXES = ("data", "fsdp", "context", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over all devices with the axes of MeshConfig, neighbours close in hardware.

    Devices that only a slow network joins (slices of TPUs, hosts of GPUs) are told apart by the
    outermost axes.

    Raises:
        ValueError: The axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = _shape(config, len(devices))
    islands = _islands(devices)
    split = {"allow_split_physical_axes": True}  # context=2 on a 4x4 slice: half of a dimension.
    if islands == 1:
        return Mesh(mesh_utils.create_device_mesh(shape, devices, **split), AXES)
    outer = _across(shape, islands)
    inner = tuple(size // parts for size, parts in zip(shape, outer, strict=True))
    return Mesh(
        mesh_utils.create_hybrid_device_mesh(
            inner, outer, devices, process_is_granule=devices[0].platform != "tpu", **split
        ),
        AXES,
    )


def _shape(config: MeshConfig, count: int) -> tuple[int, ...]:
    sizes = {axis: getattr(config, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    free = [axis for axis, size in sizes.items() if size == -1]
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        advice = f"--config.mesh.{(free or ['fsdp'])[0]}=-1"
        raise ValueError(
            f"config.mesh: {'*'.join(a for a in sizes if a not in free)} is {fixed} but "
            f"{count} devices are attached. Choose axes that multiply to the number of "
            f"devices, one of them -1, e.g. {advice} and the others 1."
        )
    return tuple(sizes.values())


def _islands(devices: Sequence[jax.Device]) -> int:
    """Returns how many groups of devices there are with fast links inside."""
    if devices[0].platform == "tpu":
        return len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform == "gpu":
        return len({device.process_index for device in devices})
    return 1


def _across(shape: tuple[int, ...], islands: int) -> tuple[int, ...]:
    """Returns how many islands each axis crosses: the outermost as many as it can.

    Raises:
        ValueError: The axes cannot be laid over the islands.
    """
    left, outer = islands, []
    for size in shape:
        outer.append(math.gcd(size, left))
        left //= outer[-1]
    if left > 1:
        sizes = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
        raise ValueError(
            f"config.mesh: {sizes} cannot be laid over {islands} slices or hosts. Choose a data "
            f"or fsdp axis that is a multiple of {islands}."
        )
    return tuple(outer)
