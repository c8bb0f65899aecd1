"""Worked examples: every expected number is computed by hand from published figures."""

import pytest

from llama_jax.config import presets
from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.config.train import TrainConfig
from llama_jax.planning import roofline
from llama_jax.planning.collectives import Collective
from llama_jax.planning.roofline import Work
from llama_jax.telemetry.hardware import Chip, Links

CHIP = Chip(100e12, 16, Links("ICI", 50e9, "DCN", 5e9), 1e12, 15.0)


def collective(link, size, bandwidth):
    return Collective("all-gather", ("fsdp",), link, 8, 1, size, bandwidth, "", size)


def test_llama2_7b_at_32k_on_eight_devices():
    config = TrainConfig(
        workdir="unused",
        model=presets.LLAMA2_7B_32K,
        data=DataConfig(
            tokenizer="unused",
            mixture={"x": SourceConfig(path="unused")},
            sequence_length=32768,
            batch_size=8,
        ),
        compute=ComputeConfig(remat="full"),
    )
    work = roofline.train_work(config, devices=8)
    assert work.tokens == 32768
    # N_mm = 32 (4 x 4096^2 + 3 x 4096 x 11008) + 4096 x 32000 = 6,607,077,376;
    # 6 N_mm + 12 x 32 x 4096 x 16384 = 65.4e9 per token (kernel tables: "65.4 GF at 32K").
    assert work.model == 32768 * (6 * 6_607_077_376 + 12 * 32 * 4096 * 16384)
    # Again: q, k, v, o, gate, up of 32 layers; the scores twice and their product with v once.
    matrices = 2 * 32 * (4 * 4096**2 + 2 * 4096 * 11008)
    assert work.recomputed == 32768 * (matrices + 3 * 2 * 32 * 4096 * 16384)


def test_the_longest_term_is_the_step_time():
    work = Work(model=40e12, recomputed=10e12, tokens=1000)
    found = roofline.roofline(
        work,
        300 * 10**9,
        [collective("ICI", 10 * 10**9, 100e9), collective("ICI", 5 * 10**9, 50e9)],
        CHIP,
    )
    by_name = {term.name: term.seconds for term in found.terms}
    # 50e12 / 100e12, 300e9 / 1e12, 10e9 / 100e9 + 5e9 / 50e9
    assert by_name == {"compute": 0.5, "HBM": 0.3, "ICI": pytest.approx(0.2)}
    assert (found.bound, found.step_seconds) == ("compute", 0.5)
    assert found.serial_seconds == pytest.approx(1.0)
    assert found.mfu == 0.8  # 40e12 / (0.5 s x 100e12)
    assert found.tokens_per_second == 2000


def test_a_slow_link_between_slices_binds_on_its_own():
    work = Work(model=1e12, recomputed=0, tokens=1)
    sent = [collective("ICI", 10**9, 100e9), collective("DCN", 10**9, 5e9)]
    found = roofline.roofline(work, 0, sent, CHIP)
    assert (found.bound, found.step_seconds) == ("DCN", pytest.approx(0.2))
