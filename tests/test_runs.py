"""The door to runs as jobs."""

import importlib.util
import json
from pathlib import Path

import pytest

from llama_jax import runs
from llama_jax.core.errors import DataError

# Beside the tests of the package, which build such directories.
spec = importlib.util.spec_from_file_location(
    "test_job", Path(__file__).parent / "training" / "test_job.py"
)
test_job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_job)


def test_a_line_or_a_record_for_every_run(tmp_path, capsys):
    first, second = test_job.Run(tmp_path / "a"), test_job.Run(tmp_path / "deep" / "b")
    first.log(100, tokens=12_345)
    first.save(100)
    second.sign()
    runs.main(["list", str(tmp_path)])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "status", "steps", "tokens", "epochs", "updated", "(UTC)"]
    assert [line.split()[1] for line in lines] == ["completed", "pending"]
    assert lines[0].split()[2:5] == ["100/100", "1.23M", "1"]
    assert all(len(line) == len(lines[0]) < 80 + len(str(tmp_path)) for line in lines)
    runs.main(["list", str(tmp_path), "--json"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    runs.main(["show", str(first.path)])
    assert json.loads(capsys.readouterr().out) == records[0]
    assert len({record["id"] for record in records}) == 2


def test_a_damaged_run_does_not_hide_the_others(tmp_path, capsys):
    test_job.Run(tmp_path / "a").write("config.json", {})
    test_job.Run(tmp_path / "b")
    with pytest.raises(DataError, match=r"a/config.json holds no settings"):
        runs.main(["list", str(tmp_path)])
    assert "stopped" in capsys.readouterr().out


def test_a_folder_without_runs_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no run directory"):
        runs.main(["list", str(tmp_path)])
