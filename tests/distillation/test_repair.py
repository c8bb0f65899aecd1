"""A damaged file becomes a new one with what can be read, and is kept."""

import os
import random

import pytest

from llama_jax.core.errors import DataError
from llama_jax.distillation import repair
from llama_jax.distillation.answer import Answer
from llama_jax.distillation.cache import Cache


@pytest.fixture
def path(tmp_path):
    """A cache of 300 answers and 50 conversations."""
    path = tmp_path / "answers.sqlite"
    with Cache(path) as cache, cache.at_once():
        for i in range(300):
            cache.store(f"{i:064}", Answer(f"answer {i} " * 20, i, 1))
        for i in range(50):
            cache.finish(f"{i:064}", [f"turn {i}"], f"text {i}")
    return path


def stored(cache):
    found = {i: cache.answer(f"{i:064}") for i in range(300)}
    assert all(answer.text == f"answer {i} " * 20 for i, answer in found.items() if answer)
    return {i for i, answer in found.items() if answer}


def test_a_whole_file_is_opened_as_it_is(path, capfd):
    before = path.read_bytes()
    with repair.open_cache(path) as cache:
        assert stored(cache) == set(range(300))
    assert path.read_bytes() == before and capfd.readouterr().err == ""


def test_one_flipped_bit_costs_one_row(path, capfd):
    data = path.read_bytes()
    path.write_bytes(data.replace(b"answer 7 answer 7", b"answer 7 Answer 7", 1))
    with repair.open_cache(path) as cache:
        assert stored(cache) == set(range(300)) - {7}
        assert len(list(cache.conversations())) == 50
    [aside] = path.parent.glob("*.damaged-*")
    assert b"answer 7 Answer 7" in aside.read_bytes()
    told = capfd.readouterr().err
    assert "299 answers and 50 conversations of it are kept" in told and str(aside) in told
    assert repair.open_cache(path).close() is None and len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("damage", ["page", "end", "middle", "free"])
def test_damaged_pages_cost_their_rows(path, damage):
    data, page = path.read_bytes(), 4096
    last = len(data) // page
    # The places of pages that are overwritten, and with what.
    places, noise = {
        "page": ([5], os.urandom(page)),
        "end": (range(last - 4, last), b""),
        "middle": ([8, 9], bytes(page)),
        "free": ([10], b"\xff" * page),
    }[damage]
    pieces = [data[i * page : (i + 1) * page] for i in range(last)]
    path.write_bytes(b"".join(noise if i in places else piece for i, piece in enumerate(pieces)))
    with repair.open_cache(path) as cache:
        assert len(stored(cache)) > 150
        cache.store("new", Answer("yes"))
    with repair.open_cache(path) as cache:
        assert cache.answer("new") == Answer("yes")


def test_what_nothing_can_be_read_of_is_for_a_person(path):
    """Else everything would be asked, and paid for, again."""
    path.write_bytes(b"Once upon a time. " * 5000)
    for _ in range(2):  # The second time finds the damaged file alone.
        with pytest.raises(DataError, match=r"nothing can be read\. To ask\s+everything again"):
            repair.open_cache(path)
    assert not path.exists() and len(list(path.parent.iterdir())) == 1


def test_a_repair_that_was_interrupted_is_done_again(path, monkeypatch):
    flipped = path.read_bytes().replace(b"answer 7 answer 7", b"answer 7 Answer 7", 1)
    path.write_bytes(flipped)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "_rebuild", killed)
    with pytest.raises(KeyboardInterrupt):
        repair.open_cache(path)
    monkeypatch.undo()
    assert not path.exists()
    with repair.open_cache(path) as cache:
        assert len(stored(cache)) == 299


def with_log(path, data):
    """Leaves `data` as the database and a log of one row beside it, as a killed process may."""
    log = path.with_name(path.name + "-wal")
    with Cache(path) as cache:
        cache.store("late", Answer("only in the log"))
        pages = log.read_bytes()
    path.write_bytes(data)
    log.write_bytes(pages)
    return log


def test_what_is_only_in_the_log_is_kept(path):
    with_log(path, path.read_bytes().replace(b"answer 7 answer 7", b"answer 7 Answer 7", 1))
    with repair.open_cache(path) as cache:
        assert len(stored(cache)) == 299 and cache.answer("late") == Answer("only in the log")


def test_the_log_goes_aside_with_its_file(path):
    """A new file beside an old log would take that for its own."""
    log = with_log(path, b"no header here! " + path.read_bytes()[16:])
    with repair.open_cache(path) as cache:
        assert stored(cache) == set(range(300)) and cache.answer("late")
    assert not log.exists() and len(list(path.parent.glob("*.damaged-*-wal"))) == 1


@pytest.mark.parametrize("header", [b"no header here! ", bytes(100), b"\xff" * 100])
def test_a_damaged_header_costs_nothing(path, header):
    path.write_bytes(header + path.read_bytes()[len(header) :])
    with repair.open_cache(path) as cache:
        assert stored(cache) == set(range(300)) and len(list(cache.conversations())) == 50


def test_random_damage_is_repaired_or_told_and_never_believed(path):
    chance, data = random.Random(3), path.read_bytes()
    for _ in range(12):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 40])):
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            with repair.open_cache(path) as cache:
                stored(cache)  # Compares every answer that is there.
        except ValueError as told:  # Of another program, or of a newer one.
            assert "answers.sqlite" in str(told)
        for file in path.parent.iterdir():
            file.unlink()


def test_a_conversation_that_lost_log_probabilities_is_asked_again(path, capfd):
    """Only what it lost: the other answer stays."""
    with Cache(path) as cache:
        for name in ("one", "two"):
            cache.store(name, Answer(name, logprobs=f"[{name}]"))
        cache.finish("x", ["1", "2"], "text", ["one", "two"])
        cache.finish("y", ["1"], "text", ["one"])
    path.write_bytes(path.read_bytes().replace(b"[two]", b"[twO]"))
    with repair.open_cache(path) as cache:
        assert len(stored(cache)) == 300 and cache.answer("one").logprobs == "[one]"
        assert cache.answer("two") is None and cache.turns("x") is None
        assert cache.turns("y") == ["1"] and len(list(cache.conversations())) == 51
    assert "301 answers and 51 conversations of it are kept" in capfd.readouterr().err
