import math

import jax
import jax.numpy as jnp
import pytest

from llama_jax.telemetry import metrics
from llama_jax.telemetry.metrics import MetricWindow


def scalars(**values):
    return {name: jnp.float32(value) for name, value in values.items()}


def row(loss, weight=1.0, **values):
    return scalars(loss=loss, weight=weight, **values)


def test_a_step_is_returned_when_the_next_one_is_running():
    window = MetricWindow()
    assert window.add(1, row(4.0)) is None
    assert window.add(2, row(3.0)) == (1, {"loss": 4.0, "weight": 1.0})
    assert window.flush() == (2, {"loss": 3.0, "weight": 1.0})
    assert window.flush() is None


def test_a_step_is_one_explicit_fetch_and_nothing_else_moves(monkeypatch):
    step = jax.jit(lambda loss: {"loss": loss, "weight": loss})
    loss = jnp.float32(2.0)
    fetches = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetches.append(tree) or device_get(tree))
    with jax.transfer_guard("disallow"):
        window = MetricWindow()
        for number in range(1, 4):
            window.add(number, step(loss))
        assert len(fetches) == 2
        window.flush()
        assert window.mean().values["loss"] == 2.0
    assert len(fetches) == 3


def test_the_newest_step_is_not_waited_for():
    class Running:
        """Stands for a scalar whose step has not finished: reading it would block."""

        def __array__(self, *_):
            raise AssertionError("the running step was read")

    window = MetricWindow()
    window.add(1, row(4.0))
    assert window.add(2, {"loss": Running(), "weight": Running()}).step == 1


def test_loss_is_weighted_by_tokens_and_equals_one_large_batch():
    window = MetricWindow()
    window.add(1, row(4.0, weight=100, accuracy=0.1))
    window.add(2, row(1.0, weight=300, accuracy=0.5))
    window.flush()
    step, values = window.mean()
    assert step == 2
    assert values["loss"] == pytest.approx((4.0 * 100 + 1.0 * 300) / 400)
    assert values["accuracy"] == pytest.approx((0.1 * 100 + 0.5 * 300) / 400)
    assert values["weight"] == 400


def test_norms_are_averaged_by_step_and_states_are_the_newest():
    window = MetricWindow()
    window.add(1, row(4.0, weight=1, grad_norm=1.0, learning_rate=0.25, param_norm=8.0))
    window.add(2, row(4.0, weight=9, grad_norm=3.0, learning_rate=0.5, param_norm=9.0))
    window.flush()
    values = window.mean().values
    assert (values["grad_norm"], values["learning_rate"], values["param_norm"]) == (2.0, 0.5, 9.0)


def test_a_window_covers_only_the_steps_since_the_last():
    window = MetricWindow()
    window.add(1, row(100.0))
    window.add(2, row(3.0))
    assert window.mean() == (1, {"loss": 100.0, "weight": 1.0})
    window.flush()
    assert window.mean() == (2, {"loss": 3.0, "weight": 1.0})


def test_a_skipped_step_is_counted_and_enters_no_mean():
    window = MetricWindow()
    window.add(1, row(2.0, weight=5, grad_norm=1.0, skipped=0))
    window.add(2, row(math.nan, weight=5, grad_norm=math.inf, skipped=1))
    window.flush()
    values = window.mean().values
    assert (values["loss"], values["grad_norm"], values["skipped"]) == (2.0, 1.0, 1.0)


def test_only_skipped_steps_have_no_mean():
    window = MetricWindow()
    window.add(1, row(math.nan, skipped=1))
    window.flush()
    assert math.isnan(window.mean().values["loss"])


def test_perplexity_is_the_exponential_of_the_mean_loss():
    named = metrics.train_metrics({"loss": 2.0, "grad_norm": 1.0, "weight": 7.0, "skipped": 0.0})
    assert named == {
        "train/loss": 2.0,
        "train/grad_norm": 1.0,
        "train/perplexity": pytest.approx(math.e**2),
    }
    assert metrics.perplexity(1e4) == math.inf
    assert math.isnan(metrics.perplexity(math.nan))
