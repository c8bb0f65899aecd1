import jax
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
