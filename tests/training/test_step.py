import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.optim import OptimConfig
from llama_jax.config.train import LossConfig, TrainConfig
from llama_jax.data.batch import Batch, place
from llama_jax.kernels.attention import cudnn
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.training import state as states
from llama_jax.training.parallelism import resolve
from llama_jax.training.step import compile_step

B, T, V = 8, 16, 64
MODEL = ModelConfig(layers=2, embed=32, mlp=64, heads=4, kv_heads=4, head_dim=8, vocab=V, context=T)
CONFIG = TrainConfig(
    workdir="unused",
    model=MODEL,
    steps=10,
    data=DataConfig(
        tokenizer="unused",
        mixture={"a": SourceConfig(path="unused")},
        sequence_length=T,
        batch_size=B,
    ),
    compute=ComputeConfig(dtype="float32", attention_chunk=8, remat="full"),
    loss=LossConfig(chunk=32),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
    mesh=MeshConfig(),
)


def batch_of(seed: int = 0, weight_BT=None) -> Batch:
    rng = np.random.default_rng(seed)
    token = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    position = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    if weight_BT is None:
        weight_BT = rng.integers(0, 3, (B, T)).astype(np.float32)
    segment = np.ones((B, T), np.int32)
    return Batch(token[:, :-1], token[:, 1:], position, segment, weight_BT)


def run(config: TrainConfig, batches: list[Batch], devices=None):
    """Returns the final state and all metrics."""
    layout = Layout(make_mesh(config.mesh, devices or jax.devices()[:1]), config.sharding)
    config = resolve(config, layout)
    optimizer = optimizers.adamw(config.optim, config.steps)
    graph, _ = llama.abstract(config.model, config.compute, layout)
    abstract = states.abstract_state(config, optimizer, layout)
    state = states.create_state(config, optimizer, abstract)
    step = compile_step(config, graph, optimizer, state, layout)
    metrics = []
    for batch in batches:
        state, scalars = step(state, place(batch, np.arange(B), (B, T), layout))
        metrics.append(jax.device_get(scalars))
    return jax.device_get(state), metrics


def assert_close(got, want, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulated_micro_batches_equal_one_large_batch(accumulate):
    batches = [batch_of(seed) for seed in range(3)]  # Weights differ between micro-batches.
    want, want_metrics = run(CONFIG, batches)
    got, metrics = run(dataclasses.replace(CONFIG, accumulate=accumulate), batches)
    assert_close(metrics, want_metrics)
    assert_close(got.params, want.params, atol=1e-5)


def test_parameters_and_moments_are_split_over_devices():
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices()), CONFIG.sharding)
    optimizer = optimizers.adamw(CONFIG.optim, CONFIG.steps)
    abstract = states.abstract_state(CONFIG, optimizer, layout)
    state = states.create_state(CONFIG, optimizer, abstract)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    # Norms and counters are whole on every device; all matrices are split eight ways.
    assert here < whole / 7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_step_changes_nothing_but_the_position(bad):
    good = batch_of(0)
    poisoned = dataclasses.replace(batch_of(1), weight_BT=np.full((B, T), bad, np.float32))
    want, _ = run(CONFIG, [good, batch_of(2)])
    got, metrics = run(CONFIG, [good, poisoned, batch_of(2)])
    assert [int(m["skipped"]) for m in metrics] == [0, 1, 0]
    assert [int(m["skipped_in_a_row"]) for m in metrics] == [0, 1, 0]
    assert (got.step, got.updates) == (3, 2)
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    jax.tree.map(np.testing.assert_array_equal, got.opt_state, want.opt_state)


def test_a_batch_without_targets_is_skipped():
    _, metrics = run(CONFIG, [batch_of(0, np.zeros((B, T), np.float32))])
    assert metrics[0]["skipped"] == 1


def test_training_on_one_batch_learns_it():
    batch = batch_of(0, np.ones((B, T), np.float32))
    config = dataclasses.replace(
        CONFIG, steps=40, optim=OptimConfig(learning_rate=2e-2, schedule="constant")
    )
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, weight_decay=0.0))
    _, metrics = run(config, [batch] * 40)
    np.testing.assert_allclose(metrics[0]["loss"], np.log(V), atol=0.1)
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert metrics[-1]["accuracy"] > 0.5


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_sum_of_the_rows_means_is_the_mean_times_the_rows(accumulate):
    batch = batch_of(3, np.ones((B, T), np.float32))
    config = dataclasses.replace(CONFIG, accumulate=accumulate)
    (mean,) = run(config, [batch])[1]
    summed = dataclasses.replace(config, loss=LossConfig(chunk=32, reduction="sum_of_rows"))
    (found,) = run(summed, [batch])[1]
    assert found["loss"] == mean["loss"]
    assert found["grad_norm"] == pytest.approx(B * mean["grad_norm"], rel=1e-5)


def test_a_sum_of_rows_of_different_weight_is_refused():
    loss = LossConfig(reduction="sum_of_rows")
    with pytest.raises(ValueError, match="every row must have as many targets"):
        data = dataclasses.replace(CONFIG.data, packing="best_fit")
        dataclasses.replace(CONFIG, loss=loss, data=data)


def test_masked_tokens_do_not_change_the_gradient():
    weight = np.ones((B, T), np.float32)
    weight[:, ::2] = 0
    one = batch_of(0, weight)
    other_target = one.target_BT.copy()
    other_target[:, ::2] = 3
    other = dataclasses.replace(one, target_BT=other_target)
    jax.tree.map(
        np.testing.assert_array_equal, run(CONFIG, [one])[0].params, run(CONFIG, [other])[0].params
    )


def test_dropout_differs_between_steps_and_repeats_with_the_seed():
    model = dataclasses.replace(MODEL, residual_dropout=0.3)
    config = dataclasses.replace(
        CONFIG, model=model, optim=OptimConfig(learning_rate=1e-9, schedule="constant")
    )
    batch = batch_of(0)
    _, metrics = run(config, [batch, batch])
    _, again = run(config, [batch, batch])
    # So small a learning rate moves the loss by less than 1e-6; other zeros, by much more.
    assert abs(metrics[0]["loss"] - metrics[1]["loss"]) > 1e-4
    assert [m["loss"] for m in metrics] == [m["loss"] for m in again]


def test_bfloat16_parameters_and_accumulation_stay_bfloat16():
    compute = ComputeConfig(param_dtype="bfloat16", dtype="bfloat16", attention_chunk=8)
    config = dataclasses.replace(CONFIG, compute=compute, accumulate=2, accumulate_dtype="bfloat16")
    state, metrics = run(config, [batch_of(0, np.ones((B, T), np.float32))] * 3)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)} == {"bfloat16"}
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert metrics[0]["loss"].dtype == jnp.float32


@pytest.mark.parametrize("devices", [1, 4])
def test_cudnn_trains_rows_of_one_document_and_what_fills_them_up_does_not_matter(
    devices, monkeypatch
):
    """The call that JAX hands to cuDNN, computed by XLA."""
    monkeypatch.setattr(cudnn, "_LIBRARY", "xla")
    monkeypatch.setattr(Layout, "device_kind", "NVIDIA H100 80GB HBM3")
    compute = ComputeConfig(dtype="bfloat16", attention="cudnn", remat="full")
    config = dataclasses.replace(CONFIG, compute=compute, mesh=MeshConfig(fsdp=-1))
    kept_BT = np.broadcast_to(np.arange(T) < T - 5, (B, T))
    batches = [batch_of(seed, kept_BT.astype(np.float32)) for seed in (0, 1)]
    batches = [dataclasses.replace(b, segment_BT=kept_BT.astype(np.int32)) for b in batches]
    other = [
        dataclasses.replace(b, token_BT=np.where(kept_BT, b.token_BT, 7).astype(np.int32))
        for b in batches
    ]
    exact = dataclasses.replace(config, compute=dataclasses.replace(compute, attention="reference"))
    with jax.numpy_dtype_promotion("standard"):
        (_, got), (_, again) = (run(config, x, jax.devices()[:devices]) for x in (batches, other))
    _, want = run(exact, batches, jax.devices()[:devices])
    assert [m["loss"] for m in got] == [m["loss"] for m in again]
    assert_close([m["loss"] for m in got], [m["loss"] for m in want], rtol=2e-3)
