import pytest

from llama_jax.config import presets
from llama_jax.telemetry.throughput import Throughput


def throughput(kind):
    return Throughput(model=presets.LLAMA2_7B, sequence_length=4096, devices=8, device_kind=kind)


def test_the_published_rate_of_llama2_7b_on_eight_h100_gives_its_published_flops():
    # JAX-Toolbox, docs/frameworks/maxtext: 11,361 tokens/s/GPU = 524 full / 487 causal TFLOP/s.
    values = throughput("NVIDIA H100 80GB HBM3").metrics(tokens=8 * 11361 * 10, seconds=10)
    assert values["throughput/tokens_per_second"] == 8 * 11361
    assert values["throughput/tokens_per_second_per_device"] == 11361
    assert values["throughput/tflops_per_device_full"] == pytest.approx(524, abs=0.6)
    assert values["throughput/tflops_per_device_causal"] == pytest.approx(487, abs=0.6)
    assert values["throughput/mfu_full"] == pytest.approx(524 / 989, abs=1e-3)
    assert values["throughput/mfu_causal"] == pytest.approx(487 / 989, abs=1e-3)


def test_mfu_is_absent_where_the_peak_is_unknown():
    values = throughput("cpu").metrics(tokens=100, seconds=1)
    assert "throughput/tflops_per_device_full" in values
    assert not [name for name in values if "mfu" in name]
