"""Training in float16: the scale of the loss, and that it changes nothing but rounding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_training import SETTINGS, Training

from llama_jax.config.lora import LoraConfig
from llama_jax.config.loss_scale import LossScaleConfig
from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.sharding.layout import Layout
from llama_jax.training import loss_scale

OPENCHATKIT = LossScaleConfig(consecutive_hysteresis=False)


def trace(config: LossScaleConfig, finite: list[bool]) -> list[float]:
    """Returns the scale after each step."""
    state, scales = loss_scale.create(config), []
    step = jax.jit(lambda old, is_finite: loss_scale.after(config, old, is_finite))
    for is_finite in finite:
        state = step(state, jnp.asarray(is_finite))
        scales.append(float(state.scale))
    return scales


def test_openchatkits_trace():
    assert trace(OPENCHATKIT, [False] * 3) == [32768, 16384, 8192]


def test_hysteresis_refills_at_once_or_only_where_the_scale_grows():
    finite = [False, False, True, False, False]
    assert trace(OPENCHATKIT, finite) == [32768, 16384, 16384, 8192, 4096]
    assert trace(LossScaleConfig(), finite) == [32768, 16384, 16384, 16384, 8192]


def test_it_doubles_after_so_many_finite_steps_in_a_row_and_has_a_floor():
    config = LossScaleConfig(initial=4.0, growth_steps=3, hysteresis=1, smallest=2.0)
    finite = [True, True, False, True, True, True, True, True, True, False, False, False]
    assert trace(config, finite) == [4, 4, 2, 2, 2, 4, 4, 4, 8, 4, 2, 2]


def theirs(config: LossScaleConfig, finite: list[bool]) -> list[float]:
    """Megatron-LM's rule, and with consecutive_hysteresis DeepSpeed's, as plain Python."""
    scale, growth, hysteresis, scales = config.initial, 0, config.hysteresis, []
    for is_finite in finite:
        if not is_finite:
            growth, hysteresis = 0, hysteresis - 1
            if hysteresis <= 0:
                scale = max(scale / 2, config.smallest)
        else:
            growth += 1
            if config.consecutive_hysteresis:
                hysteresis = config.hysteresis
            if growth == config.growth_steps:
                growth, hysteresis, scale = 0, config.hysteresis, scale * 2
        scales.append(scale)
    return scales


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.lists(st.booleans(), max_size=40))
def test_any_trace_is_that_of_the_rule_written_plainly(case, finite):
    config = CASES[case]
    assert trace(config, finite) == theirs(config, finite)


CASES = [
    LossScaleConfig(growth_steps=3),
    LossScaleConfig(growth_steps=3, consecutive_hysteresis=False),
    LossScaleConfig(growth_steps=2, hysteresis=3, consecutive_hysteresis=False, smallest=2.0**13),
    LossScaleConfig(growth_steps=1, hysteresis=1),
]


def training(dtype: str, mesh: MeshConfig | None = None, **changes) -> Training:
    compute = dataclasses.replace(SETTINGS.compute, dtype=dtype)
    mesh = MeshConfig() if mesh is None else mesh
    return Training(dataclasses.replace(SETTINGS, compute=compute, mesh=mesh, **changes))


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def error(got, want) -> float:
    """Returns the length of the difference of two trees by that of the second."""
    return float(np.linalg.norm(flat(got) - flat(want)) / np.linalg.norm(flat(want)))


@pytest.fixture(scope="module")
def float32():
    return training("float32").run(3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "mesh": MeshConfig(data=2, fsdp=2, tensor=2)},
        {"mesh": MeshConfig(fsdp=2, context=2, tensor=2)},
    ],
    ids=["one device", "accumulated", "context"],
)
def test_values_and_gradients_are_those_of_float32_but_for_rounding(changes, float32):
    changes = {"mesh": SETTINGS.mesh} | changes
    metrics, gradients, params = training("float16", **changes).run(3)
    want_metrics, want_gradients, want_params = float32
    # float16 rounds by 2^-11 = 5e-4 each time.
    assert error(gradients, want_gradients) < 2e-3
    assert error(params, want_params) < 2e-2  # Adam's first updates are signs of gradients.
    for got, want in zip(metrics, want_metrics, strict=True):
        assert got.pop("loss_scale") == 2**15
        assert got["skipped"] == 0 and got["batch_hash"] == want["batch_hash"]
        for name in ("loss", "weight", "accuracy", "grad_norm"):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-2, err_msg=name)


def test_without_a_scale_small_gradients_vanish(float32):
    def at(initial: float) -> float:
        scale = LossScaleConfig(initial=initial, smallest=2.0**-20)
        _, gradients, _ = training("float16", SETTINGS.mesh, loss_scale=scale).run(1)
        return error(gradients, float32[1])

    assert at(2.0**-12) > 20 * at(2.0**15)


def test_an_overflow_updates_nothing_but_the_scale_and_reports_the_loss():
    scale = LossScaleConfig(initial=2.0**36, hysteresis=1)
    config = training("float16", SETTINGS.mesh, loss_scale=scale)
    metrics, _, params = config.run(2)
    jax.tree.map(np.testing.assert_array_equal, params, config._fresh.params)
    assert [row["loss_scale"] for row in metrics] == [2.0**36, 2.0**35]
    assert [row["skipped"] for row in metrics] == [1, 1]
    assert all(np.isfinite(row["loss"]) and not np.isfinite(row["grad_norm"]) for row in metrics)


def test_the_sum_of_rows_is_that_many_times_the_mean():
    whole = dataclasses.replace(SETTINGS.data, packing="concat")

    def norm(reduction: str) -> float:
        loss = dataclasses.replace(SETTINGS.loss, reduction=reduction)
        metrics, _, _ = training("float16", SETTINGS.mesh, loss=loss, data=whole).run(1, "concat")
        return metrics[0]["grad_norm"]

    np.testing.assert_allclose(norm("sum_of_rows"), 8 * norm("mean"), rtol=1e-3)


@pytest.mark.parametrize(
    "quantization",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "int8")), "nf4"],
)
def test_adapters_too(quantization):
    lora = LoraConfig(r=4, targets=("*",), quantization=quantization)
    what = {"mesh": SETTINGS.mesh, "lora": lora, "init_from": "unused"}
    _, got, _ = training("float16", **what).run(1)
    _, want, _ = training("float32", **what).run(1)
    assert error(got, want) < 3e-3


@pytest.mark.parametrize("attention", ["tpu", "tpu_interpret"])
def test_tpus_multiply_no_float16(attention):
    with pytest.raises(ValueError, match=r"dtype is 'float16' but .* Set dtype to 'bfloat16'\."):
        ComputeConfig(dtype="float16", attention=attention)


def test_nor_do_they_where_attention_is_chosen(monkeypatch):
    monkeypatch.setattr(Layout, "device_kind", "TPU v5e")
    with pytest.raises(ValueError, match=r"compute\.dtype is 'float16' but the devices are 'TPU"):
        training("float16", SETTINGS.mesh)
