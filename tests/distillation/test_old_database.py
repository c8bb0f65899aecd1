"""What Together's released script left behind."""

import contextlib
import sqlite3

import hypothesis
import hypothesis.strategies as st
import pytest

from llama_jax.core.errors import DataError
from llama_jax.distillation import old_database, prompts


def write(path, rows, columns="id TEXT PRIMARY KEY, turns, results", table="results"):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE {table} ({columns})")
        marks = ", ".join("?" * len(columns.split(", ")))
        database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        database.commit()
    return path


def row(turns, answers):
    return old_database.key(turns), repr(turns), prompts.join(turns, answers)


GOOD = [row(["a", "b"], ["1", "2"]), row(['it\'s "so"\n'], ["yes"])]


def test_the_key_of_the_script():
    """It cannot tell ["a b"] from ["a", "b"]."""
    assert old_database.key(["a", "b"]).startswith("c8687a08aa5d6ed2")
    assert old_database.key(["a b"]) == old_database.key(["a", "b"])


@pytest.mark.parametrize("name", ["id", "key"])
def test_both_names_of_the_key_are_read(tmp_path, name):
    path = write(tmp_path / "old.db", GOOD, f"{name} TEXT, turns TEXT, results TEXT")
    assert old_database.is_one(path)
    found = list(old_database.read(path))
    assert found == sorted((key, eval(turns), text) for key, turns, text in GOOD)


def test_rows_that_contradict_themselves_have_no_turns(tmp_path):
    key, turns, text = GOOD[0]
    bad = [
        ("0" * 64, turns, text),  # Another key.
        (key, "['a', 'c']", text),  # Other turns.
        (key, turns, text[:5]),  # A part of the text.
        (key, "__import__('os').getcwd()", text),
        (key, "[1, 2]", text),
        (key, None, text),
        (key, turns, b"\xff"),
        (7, turns, text),
    ]
    path = write(tmp_path / "old.db", bad, "id, turns, results")
    assert [turns for _, turns, _ in old_database.read(path)] == [[]] * len(bad)


def test_the_file_is_only_read(tmp_path):
    path = write(tmp_path / "old.db", GOOD)
    before = path.read_bytes()
    assert len(list(old_database.read(path))) == 2
    refused = pytest.raises(sqlite3.OperationalError, match="readonly")
    with contextlib.closing(old_database._open(path)) as database, refused:
        database.execute("DELETE FROM results")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_such_database_is_said(tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        list(old_database.read(tmp_path / "none.db"))
    text = tmp_path / "text.db"
    text.write_text("Once upon a time. " * 100)
    with pytest.raises(DataError, match=r"text.db is damaged: file is not a database"):
        list(old_database.read(text))
    other = write(tmp_path / "other.db", [], "instruction, results")
    with pytest.raises(DataError, match=r"other.db has no table results"):
        list(old_database.read(other))
    assert not any(old_database.is_one(path) for path in (text, other, tmp_path / "none.db"))


def test_a_view_is_no_table(tmp_path):
    """It could compute without end."""
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n"
        database.execute(f"CREATE VIEW results AS SELECT ({endless}) id, 1 turns, 1 results")
    assert not old_database.is_one(path)


@hypothesis.given(st.text(max_size=40) | st.lists(st.text(max_size=5), max_size=4).map(repr))
def test_no_text_of_turns_does_anything_but_be_read(text):
    found = old_database._list(text)
    assert isinstance(found, list) and all(isinstance(turn, str) for turn in found)


def test_depth_without_end_is_no_list():
    for text in ("[" * 10**6, "-" * 10**6 + "1", "['" + "a" * 10**6, "[" + "'a'+" * 10**5 + "'b']"):
        assert old_database._list(text) == []
