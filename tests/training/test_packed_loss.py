"""A batch of packed conversations has exactly the loss of its conversations one by one.

Through the real path: chat template -> prepared folder -> rows -> loss and gradients of a step.
"""

import dataclasses
import functools
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from llama_jax.config.data import DataConfig, SourceConfig, TextConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.config.train import LossConfig, TrainConfig
from llama_jax.data.batch import padding, stack
from llama_jax.data.packing import Reader, fitted, open_rows
from llama_jax.data.sources.document import Document
from llama_jax.data.token_writer import TokenWriter
from llama_jax.data.tokens import TokenStore
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.text.chat.chat import load_chat
from llama_jax.text.chat.conversation import Message
from llama_jax.text.tokenizer import load_tokenizer
from llama_jax.text.training import train_tokenizer
from llama_jax.training import state as states
from llama_jax.training.parallelism import resolve
from llama_jax.training.step import gradients

T, V = 128, 320
CONFIG = TrainConfig(
    workdir="unused",
    model=ModelConfig(
        layers=2, embed=32, mlp=64, heads=4, kv_heads=4, head_dim=8, vocab=V, context=T
    ),
    data=DataConfig(
        tokenizer="unused",
        mixture={"a": SourceConfig(path="unused")},
        sequence_length=T,
        packing="best_fit",
    ),
    compute=ComputeConfig(dtype="float32", attention="reference"),
    loss=LossConfig(chunk=64),
    mesh=MeshConfig(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven conversations whose answers have very different lengths."""
    path: Path = tmp_path_factory.mktemp("packed")
    text = "the quick brown fox jumps over a lazy dog. THE END? [INST] [/INST] " * 20
    model = train_tokenizer([text], TokenizerTrainingConfig(vocab=300))
    (path / "tokenizer.model").write_bytes(model)
    tokenizer = load_tokenizer(path)
    chat = load_chat("llama2_chat", tokenizer)
    with TokenWriter(path / "store", tokenizer, TextConfig(), {}, weighted=True) as writer:
        for i in range(11):
            turns = [Message("user", "fox?"), Message("assistant", "dog " * (1 + i * i % 14))]
            found = chat.encode([*turns, Message("user", "the"), Message("assistant", "end")])
            writer.add(Document("", ""), found.ids, found.weights)
        writer.finish({})
    return path


@pytest.fixture(scope="module")
def measure():
    """Returns what gives mean loss, weight and gradients of rows, in micro-batches."""
    layout = Layout(make_mesh(CONFIG.mesh, jax.devices()[:1]), CONFIG.sharding)
    config = resolve(CONFIG, layout)
    graph, _ = llama.abstract(config.model, config.compute, layout)
    optimizer = optimizers.adamw(config.optim, config.steps)
    state = states.create_state(config, optimizer, states.abstract_state(config, optimizer, layout))

    @functools.cache
    def compiled(count, accumulate):
        data = dataclasses.replace(config.data, batch_size=count)
        settings = dataclasses.replace(config, accumulate=accumulate, data=data)
        return jax.jit(lambda state, batch: gradients(settings, graph, layout, state, batch))

    def loss(rows, accumulate=1):
        batch = jax.device_put(stack(rows))
        grads, sums = jax.device_get(compiled(len(rows), accumulate)(state, batch))
        return float(sums["loss"] / sums["weight"]), float(sums["weight"]), grads

    return loss


def rows_of(folder, packing, tmp_path):
    store, source = TokenStore(folder / "store"), SourceConfig(path="x", loss="completion")
    rows = open_rows(store, source, T, packing, tmp_path)
    return [rows.read(k, 0) for k in range(rows.count)]


def alone(folder, tmp_path):
    """Every conversation in a row of its own."""
    store = TokenStore(folder / "store")
    edges = [store.offsets[i : i + 2].tolist() for i in range(store.manifest.documents)]
    return [fitted(Reader(store, True).read(np.array([edge])), T) for edge in edges]


@pytest.mark.parametrize("packing", ["best_fit", "first_fit"])
def test_a_packed_batch_has_the_token_weighted_loss_of_its_conversations(
    packing, folder, measure, tmp_path
):
    packed, single = rows_of(folder, packing, tmp_path), alone(folder, tmp_path)
    assert len(packed) < len(single) == 11
    tokenizer = load_tokenizer(folder)
    # What weighs is what the assistant says, and nothing else.
    words = Counter[str]()
    for row in packed:
        learned = row.target_BT[row.weight_BT > 0].tolist()
        assert tokenizer.bos_id not in learned
        words.update(tokenizer.decode(learned).replace("end", "end ").split())
    assert words == {"dog": sum(1 + i * i % 14 for i in range(11)), "end": 11}
    weights, losses = [], []
    for row in single:
        loss, weight, _ = measure([row])
        weights.append(weight)
        losses.append(loss)
    assert max(weights) > 4 * min(weights)  # Else a mean of means would pass, too.
    loss, weight, grads = measure(packed)
    assert weight == sum(weights)
    np.testing.assert_allclose(loss, np.average(losses, weights=weights), rtol=2e-6)
    assert abs(loss - np.mean(losses)) > 1e-4
    _, _, want = measure(single)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-7), grads, want)


def test_accumulation_over_rows_of_different_weight_changes_nothing(folder, measure, tmp_path):
    packed = rows_of(folder, "best_fit", tmp_path)
    packed += [padding(T)] * (-len(packed) % 4)
    loss, weight, grads = measure(packed)
    for accumulate in (2, 4):
        other, same, more = measure(packed, accumulate)
        assert same == weight
        np.testing.assert_allclose(other, loss, rtol=2e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-7), more, grads
        )
