"""What is stored stays, whole, whatever happens to the process, the disk or the file."""

import contextlib
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from llama_jax.core.errors import DataError
from llama_jax.distillation import cache as module
from llama_jax.distillation import repair
from llama_jax.distillation.answer import Answer
from llama_jax.distillation.cache import Cache, Damaged

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def test_what_is_stored_is_found_again(path):
    answer = Answer("yes\x00 é\n", 3, -1, True)
    with Cache(path) as cache:
        cache.store("a", answer)
        cache.finish("x", ["one", "two"], "text")
        assert cache.answer("a") == answer and cache.answer("b") is None
    with Cache(path) as cache:
        assert cache.answer("a") == answer
        assert cache.turns("x") == ["one", "two"] and cache.turns("y") is None
        assert list(cache.conversations()) == [(["one", "two"], "text", [])]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_log_probabilities_are_found_again_and_belong_to_a_conversation(path):
    answer = Answer("yes", 3, 4, False, '{"ids": [1]}')
    with Cache(path) as cache:
        cache.store("a", answer)
        cache.store("b", Answer("no"))
        cache.finish("x", ["one"], "text", ["a"])
        cache.finish("y", ["two"], "text")
    with Cache(path) as cache:
        assert cache.answer("a") == answer and cache.answer("b") == Answer("no")
        assert [keys for _, _, keys in cache.conversations()] == [["a"], []]
        assert cache.logprobs(["a"]) == ['{"ids": [1]}']


def of_format_1(path):
    """Writes a file as the first format had it, byte for byte what it stored."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT, tokens_in INTEGER,"
            " tokens_out INTEGER, is_cut INTEGER, crc INTEGER);"
            "CREATE TABLE results (id TEXT PRIMARY KEY, turns TEXT, results TEXT, crc INTEGER);"
            "PRAGMA application_id = 1818911860; PRAGMA user_version = 1;"
        )
        for row in (("a", "yes é", 3, -1, 1), ("b", "the quick brown fox", 1, 2, 0)):
            crc = zlib.crc32(json.dumps(list(row)).encode())
            database.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", (*row, crc))
        crc = zlib.crc32(json.dumps(["x", '["one"]', "text"]).encode())
        database.execute("INSERT INTO results VALUES ('x', '[\"one\"]', 'text', ?)", (crc,))
        database.commit()


def test_a_file_of_the_first_format_is_read_and_continued(path):
    of_format_1(path)
    for _ in range(2):
        with Cache(path) as cache:
            assert cache.answer("a") == Answer("yes é", 3, -1, True)
            assert list(cache.conversations()) == [(["one"], "text", [])]
            assert cache.usage() == (4, 2, 1)
            cache.store("c", Answer("new", 1, 1, False, "{}"))
            cache.finish("z", ["z"], "z", ["c"])
            assert cache.answer("c").logprobs == "{}"
            cache._database.execute("DELETE FROM results WHERE id = 'z'")
            cache._database.execute("DELETE FROM answers WHERE key = 'c'")


@pytest.mark.parametrize(("damaged", "kept"), [(b"the quick brown fox", 1), (b"SQLite format", 2)])
def test_a_damaged_file_of_the_first_format_is_found_and_repaired(path, capfd, damaged, kept):
    """Before it is given new columns, or after."""
    of_format_1(path)
    flip(path, damaged)
    with repair.open_cache(path) as cache:
        assert cache.answer("a") == Answer("yes é", 3, -1, True)
        assert (cache.answer("b") is None) == (kept == 1)
        assert list(cache.conversations()) == [(["one"], "text", [])]
    assert f"{kept} answers and 1 conversations of it are kept" in capfd.readouterr().err


def test_a_flipped_bit_in_log_probabilities_is_found(path):
    with Cache(path) as cache:
        cache.store("a", Answer("yes", logprobs="[-0.12345]"))
    flip(path, b"[-0.12345")
    with pytest.raises(Damaged, match="answers 'a' has another CRC"):
        Cache(path)


def test_log_probabilities_that_went_are_found(path):
    """By the CRC, and where the whole row went by its conversation."""
    with Cache(path) as cache:
        cache.store("a", Answer("yes", logprobs="{}"))
        cache.finish("x", ["one"], "text", ["a"])
        cache._database.execute("UPDATE answers SET logprobs = NULL")
    with pytest.raises(Damaged, match="answers 'a' has another CRC"):
        Cache(path)
    for crc in (None, module.crc(("a", "yes", -1, -1, 0))):  # No row, one without any.
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("DELETE FROM answers")
            if crc is not None:
                row = ("a", "yes", -1, -1, 0, crc)
                database.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, NULL)", row)
            database.commit()
        with pytest.raises(Damaged, match="'x' lacks log-probabilities"):
            Cache(path)


def test_what_is_added_at_once_is_all_there_or_nothing(path):
    with Cache(path) as cache:
        with pytest.raises(KeyboardInterrupt), cache.at_once():
            cache.store("a", Answer("yes"))
            raise KeyboardInterrupt
        assert cache.answer("a") is None
        with cache.at_once():
            cache.store("a", Answer("yes"))
        assert cache.answer("a") == Answer("yes")


def test_the_first_answer_stays(path):
    with Cache(path) as cache:
        cache.store("a", Answer("first"))
        cache.store("a", Answer("second"))
        assert cache.answer("a") == Answer("first")


def test_conversations_come_in_the_order_of_ids_whenever_they_were_finished(path):
    with Cache(path) as cache:
        for name in "cab":
            cache.finish(name, [name], name)
        assert [text for _, text, _ in cache.conversations()] == ["a", "b", "c"]


def test_usage_counts_what_is_told(path):
    with Cache(path) as cache:
        assert cache.usage() == (0, 0, 0)
        cache.store("a", Answer("yes", 100, 10))
        cache.store("b", Answer("yes", -1, 5))
        assert cache.usage() == (100, 15, 1)


def test_the_table_is_that_of_the_released_script(path):
    with Cache(path) as cache:
        cache.finish("x", ["one"], "text")
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT id, turns, results FROM results").fetchall()
    assert found == [("x", '["one"]', "text")]


@pytest.mark.process
def test_a_killed_writer_loses_nothing_that_was_stored(path):
    """Kill -9 at any moment; 8 times here, one file."""
    chance, stored = random.Random(0), []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(8):
        command = [sys.executable, str(Path(__file__).with_name("writer.py"))]
        process = subprocess.Popen(
            [*command, str(path), str(len(stored))], stdout=subprocess.PIPE, env=environment
        )
        first = process.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        lines = (first + process.stdout.read()).split(b"\n")[:-1]
        process.wait()
        process.stdout.close()
        stored += [int(line) for line in lines]
        with Cache(path) as cache:  # Checks the file, and the CRC of every row.
            for i in stored:
                assert cache.answer(str(i)).text == f"answer {i} " * 50
                assert cache.turns(str(i)) == [f"turn {i}"]
            stored += [i for i in (len(stored), len(stored) + 1) if cache.turns(str(i))]
    assert stored == list(range(len(stored))) and len(stored) > 50


def test_many_readers_and_writers_never_find_it_locked(path):
    """Three processes; llama_jax.distill refuses a second one, SQLite would bear them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    Cache(path).close()
    command = [sys.executable, str(Path(__file__).with_name("writer.py")), str(path), "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    for process in processes:
        for _ in range(8):
            assert process.stdout.readline()
    for process in processes:
        process.kill()
        _, errors = process.communicate()
        assert errors == b""
    with Cache(path) as cache:
        assert [cache.answer(str(i)).tokens_in for i in range(8)] == list(range(8))


def flip(path, text):
    """Changes one letter of `text` in a file."""
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, text[:-1] + bytes([text[-1] ^ 1])))


def test_a_flipped_bit_in_a_text_is_found(path):
    with Cache(path) as cache:
        cache.store("a", Answer("the quick brown fox"))
    flip(path, b"the quick brown fox")
    with pytest.raises(Damaged, match="answers 'a' has another CRC"):
        Cache(path)


@pytest.mark.parametrize("damage", ["words", "half", "header", "page"])
def test_a_damaged_file_is_said_to_be_one(path, damage):
    with Cache(path) as cache, cache.at_once():
        for i in range(200):
            cache.store(str(i), Answer("yes" * 50))
    data = path.read_bytes()
    path.write_bytes(
        {
            "words": b"Once upon a time. " * 500,
            "half": data[: len(data) // 2],
            "header": b"SQLite format 4\0" + data[16:],
            "page": data[:8192] + os.urandom(4096) + data[12288:],
        }[damage]
    )
    with pytest.raises(Damaged, match=r"answers.sqlite is damaged"):
        Cache(path)


def test_somebody_elses_database_is_left_alone(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE results (key, turns, results)")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"not written by llama_jax.*config.old_database"):
        Cache(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(module, "_SINCE_2", module._SINCE_2.replace("version = 2", "version = 3"))
    Cache(path).close()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 3; this program reads formats up to 2"):
        Cache(path)


def test_a_full_disk_is_said_and_keeps_what_was_stored(path):
    """A limit on the size of files stands for the disk; SIGXFSZ is ignored by Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache = Cache(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"answers.sqlite: .*Everything answered before is saved"):
            for i in range(1000):
                cache.store(str(i), Answer(f"{i} " * 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    stored = i
    cache.store("more", Answer("room again"))
    cache.close()
    assert stored > 10
    with Cache(path) as cache:
        assert all(cache.answer(str(i)).text == f"{i} " * 500 for i in range(stored))
        assert cache.answer(str(stored)) is None and cache.answer("more")


def test_a_mistake_of_ours_is_no_damage(path):
    cache = Cache(path)
    cache.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        cache.answer("a")


def test_an_index_that_finds_another_answer_is_found(path):
    """The table is whole then, and SQLite's quick check content."""
    with Cache(path) as cache:
        cache.store("key-a", Answer("one"))
        cache.store("key-b", Answer("two"))
    data = bytearray(path.read_bytes())
    page = next(
        start
        for start in range(0, len(data), 4096)
        if data[start] == 10 and b"key-b" in data[start : start + 4096]  # A leaf of an index.
    )
    place = data.index(b"key-b", page) + 5  # The row's number follows its key.
    assert data[place] == 2
    data[place] = 1
    path.write_bytes(data)
    with pytest.raises(Damaged):
        Cache(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OSError, match=r"missing/answers.sqlite: unable to open"):
        Cache(tmp_path / "missing" / "answers.sqlite")
