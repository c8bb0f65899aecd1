"""The mean loss of held-out tokens: what it is, and what must not change it.

Dimensions: B rows, T tokens, V vocab.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.config.evaluate import EvaluatorConfig
from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.data.batch import Batch, padding, stack
from llama_jax.evaluation import perplexity
from llama_jax.evaluation.perplexity import Evaluator, Result, make_evaluators, summarise
from llama_jax.model import llama
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh

T, V, ROWS = 32, 97, 16
MODEL = ModelConfig(
    layers=2, embed=64, mlp=96, heads=4, kv_heads=2, head_dim=16, vocab=V, context=T, init_std=0.3
)
COMPUTE = ComputeConfig(dtype="float32", attention_chunk=16)
CONFIG = EvaluatorConfig(sequence_length=T, rows=ROWS, batch_size=8, buckets=4, loss_chunk=24)


@pytest.fixture(scope="module")
def params():
    return jax.jit(partial(llama.create, MODEL, COMPUTE, 0))()


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return [make_row(rng) for _ in range(ROWS)]


def make_row(rng):
    token = rng.integers(0, V, T + 1, dtype=np.int32)
    return Batch(
        token[:-1],
        token[1:],
        np.arange(T, dtype=np.int32),
        np.ones(T, np.int32),
        rng.choice([0.0, 0.5, 1.0], T).astype(np.float32),
    )


def layout_of(devices):
    return Layout(make_mesh(MeshConfig(), jax.devices()[:devices]), ShardingRules())


class Fixed:
    """An evaluator of whatever rows it is given; compiled once for all tests."""

    def __init__(self, devices=1, batch_size=8):
        layout = layout_of(devices)
        self.sharding = layout.sharding("batch", "sequence")
        self.whole = partial(place.shardings, layout)
        self.batch_size, self.batches = batch_size, []
        graph, _ = llama.abstract(MODEL, COMPUTE, layout)
        self.evaluator = Evaluator("books", CONFIG, graph, lambda: self.batches, layout)

    def run(self, params, rows, show=None):
        rows = rows + [padding(T)] * (-len(rows) % self.batch_size)
        self.batches = [
            jax.device_put(stack(rows[first : first + self.batch_size]), self.sharding)
            for first in range(0, len(rows), self.batch_size)
        ]
        params = jax.device_put(params, self.whole(params))
        with jax.transfer_guard("disallow"):
            return self.evaluator.run(params, show)


@pytest.fixture(scope="module")
def one_device():
    return Fixed()


def assert_close(found: Result, expected: Result, tolerance: float):
    assert found.tokens == expected.tokens
    assert found.loss == pytest.approx(expected.loss, rel=tolerance)
    for ours, theirs in zip(found.buckets, expected.buckets, strict=True):
        assert (ours.start, ours.stop, ours.tokens) == (theirs.start, theirs.stop, theirs.tokens)
        assert ours.loss == pytest.approx(theirs.loss, rel=tolerance)


@pytest.fixture(scope="module")
def expected(params, rows):
    """The definition, in float64, from the model's logits."""
    batch = stack(rows)
    graph, _ = llama.abstract(MODEL, COMPUTE)
    logit_BTV = np.asarray(llama.merge(graph, params)(jnp.asarray(batch.token_BT)), np.float64)
    highest_BT1 = logit_BTV.max(axis=-1, keepdims=True)
    log_Z_BT = np.log(np.exp(logit_BTV - highest_BT1).sum(axis=-1)) + highest_BT1[..., 0]
    target_BT = np.take_along_axis(logit_BTV, batch.target_BT[..., None], axis=-1)[..., 0]
    weight_BT = batch.weight_BT.astype(np.float64)
    return summarise(
        (weight_BT * (log_Z_BT - target_BT)).sum(axis=0), weight_BT.sum(axis=0), CONFIG.buckets
    )


def test_it_is_the_weighted_mean_of_minus_log_p_by_its_definition(
    one_device, params, rows, expected
):
    found = one_device.run(params, rows)
    assert_close(found, expected, 1e-6)
    assert found.loss > 1.02 * math.log(V)  # Far from a model that knows nothing, so it says much.
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(one_device, params, rows):
    params = params | {"head": {"kernel": jnp.zeros_like(params["head"]["kernel"])}}
    found = one_device.run(params, rows)
    assert found.perplexity == pytest.approx(V, rel=1e-6)
    for bucket in found.buckets:
        assert bucket.perplexity == pytest.approx(V, rel=1e-6)


def test_buckets_are_equal_parts_whose_weighted_mean_is_the_total(one_device, params, rows):
    found = one_device.run(params, rows)
    assert [(b.start, b.stop) for b in found.buckets] == [(0, 8), (8, 16), (16, 24), (24, 32)]
    assert sum(b.tokens for b in found.buckets) == found.tokens
    total = sum(b.loss * b.tokens for b in found.buckets) / found.tokens
    assert total == pytest.approx(found.loss, rel=1e-12)


def test_a_bucket_holds_the_positions_it_names():
    loss_T, weight_T = np.arange(6, dtype=np.float32), np.full(6, 2, np.float32)
    found = summarise(loss_T, weight_T, 3)
    assert [(b.start, b.stop, b.loss) for b in found.buckets] == [
        (0, 2, 0.25), (2, 4, 1.25), (4, 6, 2.25)
    ]  # fmt: skip


def test_the_batch_size_does_not_matter_and_neither_does_its_padding(one_device, params, rows):
    exactly = Fixed(batch_size=13).run(params, rows[:13])
    assert_close(one_device.run(params, rows[:13]), exactly, 1e-6)  # Three padded rows.


def test_padding_adds_nothing_even_where_its_loss_is_infinite(params, rows, monkeypatch):
    def infinite_at_zero(x_BTD, head_DV, target_BT, *, chunk):
        return jnp.where(target_BT == 0, jnp.inf, 1.0)

    monkeypatch.setattr(perplexity, "chunked_token_loss", infinite_at_zero)
    half = np.concatenate([np.zeros(T // 2), np.ones(T // 2)]).astype(np.float32)
    row = dataclasses.replace(rows[0], target_BT=half.astype(np.int32), weight_BT=half)
    found = Fixed().run(params, [row])
    assert (found.loss, found.tokens) == (1.0, T // 2)
    # Where nothing was asked there is no answer.
    assert math.isnan(found.buckets[0].loss) and math.isnan(found.buckets[0].perplexity)


def test_eight_devices_find_what_one_finds_and_a_second_run_compiles_nothing(
    one_device, params, rows
):
    eight = Fixed(devices=8)
    for some in (rows, rows[:11]):
        assert_close(eight.run(params, some), one_device.run(params, some), 1e-6)
    assert eight.run(params, rows) == eight.run(params, rows)
    assert eight.evaluator._add._cache_size() == 1


def test_the_bar_is_told_of_every_batch_that_is_done(one_device, params, rows):
    told = []
    one_device.run(params, rows + rows[:8], told.append)
    assert told == [0, 1, 2, 3]
    assert one_device.evaluator.count == 2  # 16 rows by 8, as the settings say.


def test_writers_get_names_that_say_where_a_bucket_begins():
    result = summarise(np.array([2.0, 4.0]), np.array([2.0, 2.0]), 2)
    assert result.metrics("books") == {
        "eval/books/loss": 1.5,
        "eval/books/perplexity": math.exp(1.5),
        "eval/books/perplexity_at_0": math.exp(1.0),
        "eval/books/perplexity_at_1": math.exp(2.0),
    }


class Bytes:
    """A tokenizer whose ids are bytes."""

    vocab_size, bos_id, eos_id, pad_id, sha256 = 256, 1, 2, None, "0" * 64

    def encode_all(self, texts, bos=False, eos=False):
        return [[1] * bos + list(text.encode()) + [2] * eos for text in texts]


def test_evaluators_read_their_rows_from_the_start_of_a_source(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 20)
    config = EvaluatorConfig(
        source=SourceConfig(path=str(tmp_path / "a.txt")),
        sequence_length=T,
        rows=5,
        batch_size=8,
        buckets=4,
    )
    layout = layout_of(8)
    make = partial(
        make_evaluators,
        model=MODEL_OF_BYTES,
        compute=COMPUTE,
        text=TextConfig(),
        tokenizer=Bytes(),
        cache=tmp_path / "cache",
        layout=layout,
    )
    params = jax.jit(partial(llama.create, MODEL_OF_BYTES, COMPUTE, 0))()
    params = jax.device_put(params, place.shardings(layout, params))
    evaluators = make({"play": config})
    with jax.transfer_guard("disallow"):
        [first, again] = [evaluators[0].run(params) for _ in range(2)]
    assert first == again
    assert first.tokens == 5 * T  # Three padded rows do not count.
    with pytest.raises(ValueError, match=r"^evaluators\.play\.batch_size is 12; it must be a mult"):
        make({"play": EvaluatorConfig(source=config.source, sequence_length=T, batch_size=12)})
    with pytest.raises(ValueError, match=r"^rows is 64 but "):
        make({"play": EvaluatorConfig(source=config.source, sequence_length=T)})


MODEL_OF_BYTES = ModelConfig(
    layers=2, embed=64, mlp=96, heads=4, kv_heads=2, head_dim=16, vocab=256, context=T
)
