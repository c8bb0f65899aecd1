"""One run as several processes: the same numbers, and no hang whatever happens to one of them."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import launched
import pytest
from launched import Launched

from llama_jax.config.data import SourceConfig
from llama_jax.config.prepare import PrepareConfig, TokenizerTrainingConfig
from llama_jax.prepare import prepare

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
STEPS = 12
FLAGS = (
    f"--config.steps={STEPS}",
    "--config.distributed.start=30",
    "--config.distributed.silence=10",
    "--config.checkpoint.every=4",
    "--config.accumulate=1",
)
LONG = ("--config.steps=100000", *FLAGS[1:])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    source = SourceConfig(path=str(Path(__file__).parents[1] / "llama_jax"), pattern="model/*.py")
    prepare(
        PrepareConfig(
            output=str(folder / "prepared"),
            source=source,
            tokenizer_training=TokenizerTrainingConfig(vocab=512),
            held_out=0.2,
        )
    )
    return folder / "prepared"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with launched.server(tmp_path_factory.mktemp("server")) as path:
        yield path


@pytest.fixture
def run(tmp_path, data, server):
    run = Launched(tmp_path, data, server)
    yield run
    run.reap()


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data, server) -> Launched:
    """Two processes with two devices each, which nothing interrupts."""
    run = Launched(tmp_path_factory.mktemp("straight"), data, server)
    run.train(2, 2, *FLAGS)
    assert run.steps()[-1] == STEPS and len(run.losses()) == STEPS
    return run


def values(run: Launched) -> dict[int, float]:
    return {step: float.fromhex(bits) for step, bits in run.losses().items()}


def assert_near(run: Launched, straight: Launched, relative: float) -> None:
    ours, theirs = values(run), values(straight)
    assert ours.keys() == theirs.keys()
    for step, loss in ours.items():
        assert loss == pytest.approx(theirs[step], rel=relative, abs=0), step


def assert_same(run: Launched, straight: Launched) -> None:
    assert run.losses() == straight.losses()
    assert run.fingerprints(STEPS) == straight.fingerprints(STEPS)


def test_the_same_processes_give_the_same_bits(run, straight):
    run.train(2, 2, *FLAGS)
    assert_same(run, straight)


@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (4, 1)])
def test_the_number_of_processes_changes_only_the_last_bits(run, straight, processes, devices):
    run.train(processes, devices, *FLAGS)
    assert_near(run, straight, 1e-6)
