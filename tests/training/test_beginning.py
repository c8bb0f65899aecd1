"""Weights that a run begins with: each token takes the row of its name, new ones get new rows."""

import dataclasses
import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.config.train import TrainConfig
from llama_jax.converters import run_directory
from llama_jax.core import tree
from llama_jax.model import llama
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.text import added_tokens
from llama_jax.text.tokenizer import load_tokenizer
from llama_jax.text.training import train_tokenizer
from llama_jax.training.beginning import read_weights

OLD = 400
COMPUTE = ComputeConfig(dtype="float32", attention="reference")
MODEL = ModelConfig(
    layers=2, embed=32, mlp=64, heads=4, kv_heads=4, head_dim=8, vocab=OLD, context=64
)


@pytest.fixture(scope="module")
def pieces():
    return train_tokenizer([Path(random.__file__).read_text()], TokenizerTrainingConfig(vocab=OLD))


def write_tokenizer(folder, pieces, names):
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(pieces)
    ids = {name: OLD + i for i, name in enumerate(names)}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    return load_tokenizer(folder)


@pytest.fixture
def trained(tmp_path, pieces):
    """Writes a model as a finished run, and returns what reads it as another one begins."""

    def make(names=(), vocab=OLD, tied=False):
        model = dataclasses.replace(MODEL, vocab=vocab, tie_embeddings=tied)
        params = llama.create(model, COMPUTE, 3)
        leaves = tree.named_leaves(params)
        run = tmp_path / "run"
        run.mkdir()
        run_directory.write(run, model, lambda name: np.asarray(leaves[name]))
        write_tokenizer(run / "tokenizer", pieces, names)

        def read(new_names, new_vocab, devices=1, **settings):
            config = TrainConfig(
                workdir="unused",
                init_from=str(run),
                model=dataclasses.replace(model, vocab=new_vocab),
                data=DataConfig(
                    tokenizer="unused",
                    mixture={"a": SourceConfig(path="unused")},
                    sequence_length=64,
                ),
                compute=COMPUTE,
                **settings,
            )
            mesh = MeshConfig(fsdp=1, tensor=devices)
            layout = Layout(make_mesh(mesh, jax.devices()[:devices]), config.sharding)
            _, abstract = llama.abstract(config.model, config.compute, layout)
            tokenizer = write_tokenizer(tmp_path / f"new{new_vocab}{devices}", pieces, new_names)
            return config.model, read_weights(str(run), config, abstract, tokenizer), tokenizer

        return model, params, read

    return make


def logits(model, params, ids):
    graph, _ = llama.abstract(model, COMPUTE)
    tokens = jnp.asarray(ids)[None]
    return np.asarray(llama.merge(graph, jax.device_get(params))(tokens)[0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("devices", [1, 2])
def test_old_texts_have_the_same_logits_of_old_ids_after_resizing(tied, devices, trained, capsys):
    names = ("<|system|>", "<|prompter|>", "<|assistant|>")
    model, params, read = trained(tied=tied)
    larger, grown, tokenizer = read(names, added_tokens.padded(OLD + 3), devices)
    assert larger.vocab == 416
    assert "16 rows are added to its vocabulary of 400" in capsys.readouterr().err
    np.testing.assert_array_equal(grown["embed"]["embedding"][:OLD], params["embed"]["embedding"])
    ids = tokenizer.encode("import random\n\n    return self.random() * 2", bos=True)
    before, after = logits(model, params, ids), logits(larger, grown, ids)
    np.testing.assert_array_equal(after[:, :OLD], before)
    # The mean of all rows gives the mean of all logits: a new token is likely as an average one.
    np.testing.assert_allclose(after[:, OLD:].T - before.mean(1), 0, atol=1e-6)


def test_permuted_names_give_the_same_logits_by_name(trained, capsys):
    old, new = ("<a>", "<b>", "<c>"), ("<c>", "<x>", "<a>")
    model, params, read = trained(old, 416)
    _, moved, tokenizer = read(new, 416)
    err = capsys.readouterr().err
    assert "1 rows are added" in err and "2 tokens have other ids here" in err
    ids = tokenizer.encode("def f(self)", bos=True)
    before = logits(model, params, [*ids, OLD + 0, OLD + 2])  # <a> <c>
    after = logits(model, moved, [*ids, OLD + 2, OLD + 0])
    order = [*range(OLD), OLD + 2, OLD + 0]
    np.testing.assert_array_equal(after[:, order], before[:, [*range(OLD), OLD + 0, OLD + 2]])
    # Padding stays where it is.
    np.testing.assert_array_equal(after[:, 403:], before[:, 403:])


def test_new_rows_may_be_drawn_instead(trained):
    model, _, read = trained()
    _, grown, _ = read(("<a>",), 1400, added_rows="normal")
    new = np.asarray(grown["embed"]["embedding"][OLD:])
    np.testing.assert_allclose(new.std(), model.init_std, rtol=0.03)


def test_rows_can_not_be_taken_away(trained):
    _, _, read = trained(("<a>",), 416)
    with pytest.raises(ValueError, match=r"model.vocab is 400 but .* have 416; rows can be added"):
        read((), OLD)


def test_added_rows_without_weights_are_refused():
    data = DataConfig(tokenizer="x", mixture={"a": SourceConfig(path="x")}, sequence_length=64)
    with pytest.raises(ValueError, match="added_rows is 'normal' but init_from is ''"):
        TrainConfig(workdir="x", model=MODEL, data=data, added_rows="normal")
