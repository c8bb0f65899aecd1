import json
import math
import sys
import time
import types

import pytest

from llama_jax.core.errors import DataError
from llama_jax.telemetry.writers import Writers


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps(workdir):
    return [row["step"] for row in rows(workdir)]


def write(workdir, resumed, *numbers):
    with Writers(workdir, resumed=resumed) as writers:
        for step in numbers:
            writers.write(step, {"train/loss": step / 2})


def test_a_line_holds_step_unix_time_and_numbers(tmp_path):
    write(tmp_path, None, 3)
    (row,) = rows(tmp_path)
    assert abs(row.pop("time") - time.time()) < 60
    assert row == {"step": 3, "train/loss": 1.5}


def test_a_line_is_in_the_file_before_the_run_ends(tmp_path):
    with Writers(tmp_path, resumed=None) as writers:
        writers.write(1, {"train/loss": 1.0})
        assert steps(tmp_path) == [1]


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    with Writers(tmp_path, resumed=None) as writers:
        writers.write(1, {"a": math.nan, "b": math.inf, "c": 1.0})
    (row,) = rows(tmp_path)
    assert (row["a"], row["b"], row["c"]) == (None, None, 1.0)


def test_no_step_is_there_twice_after_a_resume(tmp_path):
    write(tmp_path, None, 10, 20, 30, 40)
    write(tmp_path, 25, 30, 40, 50)
    assert steps(tmp_path) == [10, 20, 30, 40, 50]


def test_the_resumed_step_itself_is_kept(tmp_path):
    write(tmp_path, None, 10, 20)
    write(tmp_path, 20, 30)
    assert steps(tmp_path) == [10, 20, 30]


def test_a_run_that_starts_anew_starts_its_file_anew(tmp_path):
    write(tmp_path, None, 0, 10)
    write(tmp_path, None, 0)
    assert steps(tmp_path) == [0]


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path):
    write(tmp_path, None, 10, 20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "tra')
    write(tmp_path, 20, 30)
    assert steps(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "x"}', "[" * 100_000])
def test_a_line_that_is_not_ours_is_named_and_nothing_is_lost(tmp_path, line):
    text = f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"metrics.jsonl, line 2 is not a JSON object with a step"):
        Writers(tmp_path, resumed=1)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_processes_other_than_the_first_write_nothing(tmp_path):
    with Writers(tmp_path / "run", resumed=None, enabled=False) as writers:
        writers.write(1, {"a": 1.0})
    assert not (tmp_path / "run").exists()


def test_tensorboard_hides_the_steps_that_are_done_again(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, None, 10, 20, 30)
    time.sleep(1)  # The names of event files count seconds, and TensorBoard reads them in order.
    write(tmp_path, 15, 20)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (10, 5.0),
        (20, 10.0),
    ]


class FakeWandb(types.ModuleType):
    """Records what Weights & Biases would be told."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logs = [], []

    def init(self, **arguments):
        self.inits.append(arguments)
        return types.SimpleNamespace(
            define_metric=lambda *names, **options: None,
            log=self.logs.append,
            finish=lambda: self.logs.append("finished"),
        )


@pytest.fixture
def wandb(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    return module


def test_a_continued_run_goes_on_in_the_same_place_in_wandb(tmp_path, wandb):
    for resumed in (None, 5):
        with Writers(tmp_path, resumed=resumed, wandb_project="llamas") as writers:
            writers.write(6, {"train/loss": 1.0})
    first, second = wandb.inits
    assert first == second
    assert first["project"] == "llamas" and first["resume"] == "allow" and first["id"]
    assert wandb.logs == [{"train/loss": 1.0, "step": 6}, "finished"] * 2


def test_wandb_is_not_touched_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    write(tmp_path, None, 1)


def test_wandb_asked_for_and_missing_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb_project is 'llamas' but .* pip install wandb"):
        Writers(tmp_path, resumed=None, wandb_project="llamas")


def test_the_key_of_wandb_comes_from_the_environment(tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match="no WANDB_API_KEY"):
        Writers(tmp_path, resumed=None, wandb_project="llamas")
    monkeypatch.setenv("WANDB_MODE", "offline")
    Writers(tmp_path, resumed=None, wandb_project="llamas").close()
