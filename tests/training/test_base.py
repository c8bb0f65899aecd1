"""The base of a run of adapters: the right one, read in pieces, never trained."""

import dataclasses

import jax
import numpy as np
import pytest
from mesh_training import SETTINGS

from llama_jax.config.lora import LoraConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.converters import huggingface, huggingface_config
from llama_jax.core import tree
from llama_jax.distributed.processes import Alone
from llama_jax.model import llama, quantized
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.training import base, state

LORA = LoraConfig(r=4, targets=("attention/*",), quantization="nf4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder; returns its parameters too."""
    path, model = tmp_path_factory.mktemp("base"), SETTINGS.model
    params = tree.named_leaves(llama.create(model, SETTINGS.compute, 7))
    read = huggingface.reader_of(params.__getitem__, model, "float32")
    huggingface.write(path, huggingface_config.to_theirs(model, dtype="float32"), model, read)
    return path, params


def adapting(folder, lora=LORA, mesh=None):
    """Settings, layout, and the state before its base is read."""
    mesh = mesh or MeshConfig(data=-1, fsdp=1)
    config = dataclasses.replace(SETTINGS, init_from=str(folder), lora=lora, mesh=mesh)
    layout = Layout(make_mesh(config.mesh), config.sharding)
    optimizer = optimizers.adamw(config.optim, config.steps)
    abstract = state.abstract_state(config, optimizer, layout)
    fresh = state.create_state(config, optimizer, abstract.without_base())
    return config, layout, abstract, fresh


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_base_is_quantized_a_layer_at_a_time(folder, quantization, monkeypatch):
    path, params = folder
    lora = dataclasses.replace(LORA, quantization=quantization)
    config, layout, abstract, fresh = adapting(path, lora)
    assert fresh.base == {}
    whole = huggingface.Folder.leaf

    def small(self, name, dtype=None):
        assert not quantized.applies(lora, name), f"all layers of {name} were in memory"
        return whole(self, name, dtype)

    monkeypatch.setattr(huggingface.Folder, "leaf", small)
    where = base.locate(config, None, Alone())
    got = base.read(config, where, layout, fresh, abstract).base
    assert jax.tree.structure(got) == jax.tree.structure(abstract.base)
    for name, leaf in tree.named_leaves(got).items():
        kernel, _, part = name.rpartition("/")
        want = params.get(name)
        if want is None:
            layers = [quantized.of_kernel(lora, kernel, layer)[part] for layer in params[kernel]]
            want = np.stack(layers)
        np.testing.assert_allclose(leaf, want, rtol=1e-6)
        assert leaf.sharding == tree.named_leaves(abstract.base)[name].sharding


def test_a_base_is_split_as_it_is_read(folder):
    path, params = folder
    lora = dataclasses.replace(LORA, quantization="none")
    config, layout, abstract, fresh = adapting(path, lora, MeshConfig(fsdp=4, tensor=2))
    where = base.locate(config, None, Alone())
    got = tree.named_leaves(base.read(config, where, layout, fresh, abstract).base)
    assert got.keys() == params.keys()
    for name, leaf in got.items():
        np.testing.assert_array_equal(leaf, params[name])
        assert leaf.sharding == tree.named_leaves(abstract.base)[name].sharding


def test_another_base_than_the_recorded_one_is_refused(folder):
    config, *_ = adapting(folder[0])
    where = dataclasses.asdict(base.locate(config, None, Alone()))
    assert dataclasses.asdict(base.locate(config, where, Alone())) == where
    with pytest.raises(ValueError, match="has changed since this run began on it"):
        base.locate(config, where | {"fingerprint": "0" * 64}, Alone())


def test_a_base_of_another_shape_is_refused(folder):
    config, *_ = adapting(folder[0])
    model = dataclasses.replace(config.model, vocab=config.model.vocab + 8)
    config = dataclasses.replace(config, model=model)
    with pytest.raises(ValueError, match=r"are for a model with vocab 72, but .* has 64"):
        base.locate(config, None, Alone())


def test_weights_that_would_be_rounded_are_refused(folder):
    config, layout, abstract, fresh = adapting(folder[0])
    compute = dataclasses.replace(config.compute, param_dtype="bfloat16")
    config = dataclasses.replace(config, compute=compute)
    where = base.locate(config, None, Alone())
    with pytest.raises(ValueError, match="which would round them"):
        base.read(config, where, layout, fresh, abstract)
