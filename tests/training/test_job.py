"""A run directory's record: what is in it decides every field, and nothing is written."""

import contextlib
import json
import os
import socket
import subprocess
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from llama_jax.checkpoint import layout
from llama_jax.core.errors import DataError
from llama_jax.training import job

START = 1_700_000_000.0


class Run:
    """A run directory as training leaves it."""

    def __init__(self, path, steps=100):
        self.path = path
        (path / "tokenizer").mkdir(parents=True)
        self.write(
            "config.json",
            {
                "model": {},
                "settings": {
                    "steps": steps,
                    "init_from": "Llama-2-7b-hf",
                    "data": {"mixture": {"books": {"path": "b"}}, "batch_size": 32},
                    "optim": {"learning_rate": 1e-5},
                    "log": {"wandb_project": "p"},
                },
            },
        )
        os.utime(path / "config.json", (START, START))
        (path / ".lock").write_text("")

    def write(self, name, value):
        (self.path / name).write_text(json.dumps(value))

    def log(self, *steps, tokens=1000, epochs=0.01):
        rows = [
            {
                "step": step,
                "time": START + 10 * step,
                "train/loss": None,
                "data/tokens_seen": step * tokens,
                "data/epochs/books": step * epochs,
                "data/epochs/code": step * epochs * 3,
            }
            for step in steps
        ]
        with open(self.path / "metrics.jsonl", "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def save(self, step):
        folder = layout.step_path(self.path / "checkpoints", step)
        (folder / "meta").mkdir(parents=True)
        arrays = {"params/a": (3, 4), "params/b": (), "opt_state/a": (3, 4)}
        described = {
            name: {"shape": shape, "dtype": "f", "fingerprint": ""}
            for name, shape in arrays.items()
        }
        content = json.loads(json.dumps({"format": 1, "step": step, "arrays": described}))
        record = {"sha256": layout._digest(content), "content": content}
        (folder / "meta" / "metadata").write_text(json.dumps(record))
        commit = folder / layout.COMMIT_FILE
        commit.write_text("")
        os.utime(commit, (START + 10 * step + 1,) * 2)

    def sign(self, host=None, pid=None):
        self.write(".lock", {"host": host or socket.gethostname(), "pid": pid or os.getpid()})


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def kinds(record):
    return [event["type"] for event in record["events"]]


def test_a_finished_run(run):
    run.log(50, 60, 100)
    run.save(50)
    run.save(100)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    found = job.record(run.path)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert found["id"].startswith("ft-") and found["id"] == job.record(run.path)["id"]
    events = found.pop("events")
    assert found | {"id": ""} == {
        "id": "",
        "object": "fine-tune",
        "status": "completed",
        "model": "Llama-2-7b-hf",
        "training_files": {"books": "b"},
        "n_steps": 100,
        "batch_size": 32,
        "learning_rate": 1e-5,
        "wandb_project_name": "p",
        "model_output_name": "run",
        "model_output_path": str(run.path / "checkpoints" / "100"),
        "created_at": "2023-11-14T22:21:40.000+00:00",
        "updated_at": "2023-11-14T22:30:01.000+00:00",
        "steps_completed": 100,
        "token_count": 100_000,
        "param_count": 13,
        "epochs_completed": 1,
        "epochs": {"books": 1.0, "code": 3.0},
    }
    assert [(event["type"], event["message"]) for event in events] == [
        ("JOB_PENDING", "settings written"),
        ("TRAINING_START", "step 50 is logged"),
        ("EPOCH_COMPLETE", "epoch 1 of code complete at step 50"),
        ("CHECKPOINT_SAVE", "step 50 saved"),
        ("EPOCH_COMPLETE", "epoch 1 of books complete at step 100"),
        ("EPOCH_COMPLETE", "epoch 3 of code complete at step 100"),
        ("CHECKPOINT_SAVE", "step 100 saved"),
        ("JOB_COMPLETE", "100 steps"),
    ]
    assert events[2]["token_count"] == 50_000 and events[-1]["model_path"].endswith("/100")


def test_the_status_is_that_of_the_process(run):
    assert job.record(run.path)["status"] == "stopped"
    run.sign()
    assert job.record(run.path)["status"] == "pending"
    run.log(10)
    assert job.record(run.path)["status"] == "running"
    ended = subprocess.Popen(["true"])
    ended.wait()
    run.sign(pid=ended.pid)  # Killed: nobody emptied the lock.
    assert job.record(run.path)["status"] == "stopped"
    run.write(".lock", ["no", "signature"])
    assert job.record(run.path)["status"] == "stopped"


def test_a_run_on_another_host_is_believed_while_it_logs(run):
    run.sign(host="elsewhere.example")
    run.log(10)
    assert job.record(run.path)["status"] == "stopped"
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 11, "time": time.time()}) + "\n")
    assert job.record(run.path)["status"] == "running"


def test_a_run_whose_steps_were_raised_is_not_completed(tmp_path):
    run = Run(tmp_path / "run", steps=200)
    run.log(100)
    run.save(100)
    assert job.record(run.path)["status"] == "stopped"
    assert "JOB_COMPLETE" not in kinds(job.record(run.path))


def test_a_run_without_a_step_has_a_record(run):
    found = job.record(run.path)
    assert (found["token_count"], found["param_count"], found["epochs"]) == (0, 0, {})
    assert found["model_output_path"] == "" and kinds(found) == ["JOB_PENDING"]


def test_a_checkpoint_that_was_set_aside_is_told(run):
    run.save(50)
    (run.path / "checkpoints" / "70.corrupt-20260101T000000.0").mkdir()
    [event] = [e for e in job.record(run.path)["events"] if e["type"] == "CHECKPOINT_SET_ASIDE"]
    assert event["level"] == "warning" and "70.corrupt" in event["checkpoint_path"]


def test_steps_that_are_not_saved_are_not_completed(run):
    run.log(50, 100)
    run.save(50)
    run.sign()
    assert job.record(run.path)["status"] == "running"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-5", '"many"', "[]", "null"])
def test_a_number_that_is_none_is_not_told(run, value):
    run.log(10)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(
            f'{{"step": 20, "time": {START}, "data/tokens_seen": {value}, '
            f'"data/epochs/books": {value}}}\n'
        )
    found = job.record(run.path)
    assert found["token_count"] == 10_000 and found["steps_completed"] == 20
    assert found["epochs"] == pytest.approx({"books": 0.1, "code": 0.3})


def test_half_a_last_line_is_being_written(run):
    run.log(10)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "ti')
    assert job.record(run.path)["steps_completed"] == 10


@pytest.mark.parametrize("line", ["7", "{", '{"step": "a", "time": 1}', '{"step": 1}', "[" * 10**5])
def test_a_broken_line_is_said_with_its_place(run, line):
    run.log(10)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"metrics.jsonl, line 2 is not"):
        job.record(run.path)


values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["settings", "data", "mixture", "optim", "step", "time"])
        | st.sampled_from(["data/epochs/a", "data/tokens_seen", "host", "pid"]),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(values, values, values)
def test_no_json_does_anything_but_be_read(tmp_path_factory, config, row, holder):
    run = Run(tmp_path_factory.mktemp("any") / "run")
    run.write(".lock", holder)
    run.write("metrics.jsonl", row)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write("\n")
    with contextlib.suppress(DataError):
        json.dumps(job.record(run.path), allow_nan=False)
    run.write("config.json", config)
    with pytest.raises(DataError):
        job.record(run.path)


def test_other_folders_are_no_runs(run, tmp_path):
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "config.json").write_text("{}")
    Run(run.path / "checkpoints" / "inside")  # A run is not searched for runs.
    Run(tmp_path / ".hidden")
    Run(tmp_path / "a" / "b")
    assert job.find(tmp_path) == [tmp_path / "a" / "b", run.path]
    assert job.find(run.path) == [run.path]
    with pytest.raises(ValueError, match="is no run directory"):
        job.record(tmp_path / "converted")
