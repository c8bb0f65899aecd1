import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from llama_jax.config import presets
from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig
from llama_jax.core import tree
from llama_jax.model import llama
from llama_jax.sharding import place
from llama_jax.sharding.mesh import make_mesh


def specs(mesh_config):
    mesh = make_mesh(mesh_config, jax.devices())
    _, shapes = llama.abstract(presets.LLAMA2_7B, ComputeConfig())
    placed = place.shardings(mesh, ShardingRules(), shapes)
    return {name: sharding.spec for name, sharding in tree.named_leaves(placed).items()}


def test_matrices_are_split_over_fsdp_and_tensor_and_norms_are_whole():
    found = specs(MeshConfig(fsdp=4, tensor=2))
    assert found["layers/attention/q/kernel"] == P(None, "fsdp", "tensor", None)
    assert found["layers/attention/o/kernel"] == P(None, "tensor", None, "fsdp")
    assert found["layers/mlp/down/kernel"] == P(None, "tensor", "fsdp")
    assert found["embed/embedding"] == P("tensor", "fsdp")
    assert found["head/kernel"] == P("fsdp", "tensor")
    assert found["norm/scale"] == P(None)


def test_moments_are_split_like_their_parameters():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices())
    moments = [{"mu": {"layers": {"mlp": {"up": {"kernel": jnp.ones((1, 8, 8))}}}}}]
    spec = place.shardings(mesh, ShardingRules(), moments)[0]["mu"]["layers"]["mlp"]["up"]["kernel"]
    assert spec.spec == P(None, "fsdp", "tensor")


def test_a_dimension_that_does_not_divide_is_refused_by_name():
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=8), jax.devices())
    _, shapes = llama.abstract(presets.LLAMA2_7B, ComputeConfig())
    shapes["head"]["kernel"] = jax.ShapeDtypeStruct((4096, 32001), jnp.float32)
    with pytest.raises(ValueError, match=r"head/kernel has shape .*32001 cannot be split over 8"):
        place.shardings(mesh, ShardingRules(), shapes)
