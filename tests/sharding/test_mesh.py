import dataclasses

import jax
import numpy as np
import pytest

from llama_jax.config.mesh import MeshConfig
from llama_jax.sharding.mesh import make_mesh


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}),
        (MeshConfig(data=2, fsdp=-1, tensor=2), {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}),
        (MeshConfig(data=-1, fsdp=1, tensor=4), {"data": 2, "fsdp": 1, "context": 1, "tensor": 4}),
        (
            MeshConfig(fsdp=2, context=-1, tensor=2),
            {"data": 1, "fsdp": 2, "context": 2, "tensor": 2},
        ),
        (MeshConfig(data=2, fsdp=2, tensor=2), {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}),
    ],
)
def test_one_axis_takes_what_is_left(config, shape):
    assert dict(make_mesh(config, jax.devices()).shape) == shape


@pytest.mark.parametrize("config", [MeshConfig(fsdp=3), MeshConfig(data=3), MeshConfig(data=16)])
def test_a_mesh_that_does_not_fit_says_how_many_devices_there_are(config):
    with pytest.raises(ValueError, match=r"config\.mesh: .* 8 devices are attached"):
        make_mesh(config, jax.devices())


@dataclasses.dataclass(frozen=True)
class Device:
    """A device as mesh construction sees it."""

    id: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "H100"
    slice_index: int = 0

    @property
    def coords(self):
        return (self.id, 0, 0)


def hosts(count, each=8):
    return [Device(i, i // each) for i in range(count * each)]


@pytest.mark.parametrize(
    ("config", "across"),
    [
        (MeshConfig(data=4), {"data"}),
        (MeshConfig(), {"fsdp"}),
        (MeshConfig(data=2, tensor=8), {"data", "fsdp"}),
        (MeshConfig(fsdp=4, context=8), {"fsdp"}),
    ],
)
def test_only_the_outermost_axes_leave_a_host(config, across):
    mesh = make_mesh(config, hosts(4))
    host = np.vectorize(lambda device: device.process_index)(mesh.devices)
    for dim, axis in enumerate(mesh.axis_names):
        same = (host == np.take(host, [0], axis=dim)).all()
        assert same == (axis not in across), axis


def test_a_mesh_that_cannot_be_laid_over_the_hosts_says_so():
    with pytest.raises(ValueError, match=r"tensor=3 cannot be laid over 2 slices or hosts"):
        make_mesh(MeshConfig(fsdp=1, tensor=3), [Device(i, i % 2) for i in range(3)])
