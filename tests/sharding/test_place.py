import dataclasses

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
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh

D = ("fsdp", "context")


def layout_of(config):
    return Layout(make_mesh(config, jax.devices()), ShardingRules())


def specs(mesh_config, model=presets.LLAMA2_7B):
    _, shapes = llama.abstract(model, ComputeConfig())
    placed = place.shardings(layout_of(mesh_config), shapes)
    return {name: sharding.spec for name, sharding in tree.named_leaves(placed).items()}


def test_matrices_are_split_over_fsdp_and_tensor_and_norms_are_whole():
    found = specs(MeshConfig(fsdp=4, tensor=2))
    assert found["layers/attention/q/kernel"] == P(None, D, "tensor", None)
    assert found["layers/attention/o/kernel"] == P(None, "tensor", None, D)
    assert found["layers/mlp/down/kernel"] == P(None, "tensor", D)
    assert found["embed/embedding"] == P("tensor", D)
    assert found["head/kernel"] == P(D, "tensor")
    assert found["norm/scale"] == P(None)


def test_moments_are_split_like_their_parameters():
    layout = layout_of(MeshConfig(fsdp=4, tensor=2))
    moments = [{"mu": {"layers": {"mlp": {"up": {"kernel": jnp.ones((1, 8, 8))}}}}}]
    spec = place.shardings(layout, moments)[0]["mu"]["layers"]["mlp"]["up"]["kernel"]
    assert spec.spec == P(None, D, "tensor")


def test_a_dimension_that_does_not_divide_is_refused_by_name():
    layout = layout_of(MeshConfig(fsdp=1, tensor=8))
    _, shapes = llama.abstract(presets.LLAMA2_7B, ComputeConfig())
    shapes["head"]["kernel"] = jax.ShapeDtypeStruct((4096, 32001), jnp.float32)
    with pytest.raises(ValueError, match=r"head/kernel has shape .*32001 cannot be split over 8"):
        place.shardings(layout, shapes)


def test_fewer_key_heads_than_parts_are_whole_everywhere():
    grouped = dataclasses.replace(presets.LLAMA2_7B, kv_heads=2)
    found = specs(MeshConfig(fsdp=2, tensor=4), grouped)
    assert found["layers/attention/k/kernel"] == P(None, D, None, None)
    assert found["layers/attention/q/kernel"] == P(None, D, "tensor", None)


def test_key_heads_that_cannot_be_shared_out_are_refused():
    odd = dataclasses.replace(presets.LLAMA2_7B, heads=24, kv_heads=3, head_dim=128)
    with pytest.raises(ValueError, match=r"k/kernel has shape .* 3 cannot be split over 8"):
        specs(MeshConfig(fsdp=1, tensor=8), odd)
