"""Which folders are believed, and that a record cannot change unseen."""

import json

import jax.numpy as jnp
import pytest

from llama_jax.checkpoint import layout
from llama_jax.core.errors import DataError


def committed(directory, name):
    path = directory / name
    path.mkdir()
    (path / layout.COMMIT_FILE).write_text("")
    return path


def write_record(directory, step, **changes):
    record = layout.record(step, {"x": jnp.ones(2)}, {"x": "0" * 16}, {"tokens": 5, **changes})
    path = directory / str(step) / layout.META
    path.mkdir(parents=True)
    (path / layout.META_FILE).write_text(json.dumps(record))
    return path / layout.META_FILE


def test_only_committed_folders_named_by_a_number_are_steps(tmp_path):
    for name in ("3", "12", "007", "-1", "+5", "1e3", "5.corrupt-1", "9" * 40, "٣"):
        committed(tmp_path, name)
    (tmp_path / "7").mkdir()
    (tmp_path / "9").write_text("a file")
    (tmp_path / "20").symlink_to(tmp_path / "3")
    assert layout.steps(tmp_path) == [3, 12]
    assert layout.uncommitted(tmp_path) == [tmp_path / "7"]
    assert layout.steps(tmp_path / "absent") == []


def test_only_a_save_that_was_cut_short_may_be_deleted(tmp_path):
    path = tmp_path / "4"
    path.mkdir()
    assert layout.is_interrupted(path)
    (path / layout.ORBAX_FILE).write_text('{"init_ti')
    assert layout.is_interrupted(path)
    (path / "state").mkdir()
    assert layout.is_interrupted(path)
    (path / layout.ORBAX_FILE).write_text('{"commit_timestamp_nsecs": null}')
    assert layout.is_interrupted(path)
    (path / layout.ORBAX_FILE).write_text('{"commit_timestamp_nsecs": 17}')
    assert not layout.is_interrupted(path)
    (path / layout.ORBAX_FILE).unlink()
    assert not layout.is_interrupted(path)


def test_the_record_comes_back_as_json_reads_it(tmp_path):
    write_record(tmp_path, 4, data={"position": (1, 2), 10: 0.1, 9: None})
    content = layout.read_record(tmp_path, 4)
    assert content["data"] == {"position": [1, 2], "10": 0.1, "9": None}
    assert content["step"] == 4 and content["tokens"] == 5
    assert content["arrays"]["x"]["dtype"] == "float32"


def test_a_changed_digit_in_the_record_is_found(tmp_path):
    path = write_record(tmp_path, 4)
    path.write_text(path.read_text().replace('"tokens": 5', '"tokens": 6'))
    with pytest.raises(DataError, match="differs from its checksum"):
        layout.read_record(tmp_path, 4)


def test_a_record_of_another_step_is_refused(tmp_path):
    write_record(tmp_path, 4)
    (tmp_path / "4").rename(tmp_path / "5")
    with pytest.raises(DataError, match="belongs to step 4, not to step 5"):
        layout.read_record(tmp_path, 5)


def test_a_newer_format_is_named_and_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "FORMAT", 2)
    write_record(tmp_path, 4)
    monkeypatch.setattr(layout, "FORMAT", 1)
    with pytest.raises(ValueError, match="is in checkpoint format 2") as caught:
        layout.read_record(tmp_path, 4)
    assert not isinstance(caught.value, DataError)
