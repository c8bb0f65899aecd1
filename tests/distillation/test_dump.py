"""Lines of texts: the released format, bytes that only the answers decide."""

import json

import pytest

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.data.sources.documents import Reader
from llama_jax.distillation import dump, old_database, prompts
from llama_jax.distillation.cache import Cache


@pytest.fixture
def cache(tmp_path):
    with Cache(tmp_path / dump.CACHE) as cache:
        yield cache


def finish(cache, name, turns, answers):
    cache.finish(name, turns, prompts.join(turns, answers))


def texts(dumped):
    return [json.loads(line)["text"] for line in dumped.path.read_text().splitlines()]


def test_two_turns_as_in_the_released_file(cache, tmp_path):
    finish(cache, "x", ["first", "second"], ["one", "two \n"])
    dumped = dump.write(cache, tmp_path)
    assert texts(dumped) == ["[INST]  first  [/INST]  one    [INST]  second  [/INST]  two"]
    assert dumped.path.name == "instructions.jsonl" and (dumped.lines, dumped.wrong) == (1, 0)


def test_the_pager_goes_from_questions_and_stays_in_answers(cache, tmp_path):
    finish(cache, "x", ["1 / 1Hi", "2 / 2-More"], ["1 / 1 is one", "3 / 3"])
    assert texts(dump.write(cache, tmp_path)) == [
        "[INST]  Hi  [/INST]  1 / 1 is one    [INST]  More  [/INST]  3 / 3"
    ]


def test_the_order_of_finishing_changes_no_byte(cache, tmp_path):
    finish(cache, "a", ["1"], ["x"])
    finish(cache, "b", ["2"], ["é\x00"])
    first = dump.write(cache, tmp_path).path.read_bytes()
    (tmp_path / "other").mkdir()
    with Cache(tmp_path / "other" / dump.CACHE) as other:
        finish(other, "b", ["2"], ["é\x00"])
        finish(other, "a", ["1"], ["x"])
        assert dump.write(other, tmp_path / "other").path.read_bytes() == first
    assert first.count(b"\n") == 2


def test_a_text_of_other_turns_is_counted_and_left_out(cache, tmp_path):
    finish(cache, "a", ["1"], ["x"])
    cache.finish("b", ["2"], prompts.join(["3"], ["x"]))
    dumped = dump.write(cache, tmp_path)
    assert (dumped.lines, dumped.wrong) == (1, 1)


def test_an_old_database_is_dumped_beside_itself(cache, tmp_path):
    turns = ["2 / 2a", "b"]
    cache.finish(old_database.key(turns), turns, prompts.join(turns, ["1", "2"]))
    cache.finish("f" * 64, ["c"], prompts.join(["c"], ["3"]))
    cache.close()
    path = tmp_path / dump.CACHE
    dumped = dump.write_old(path)  # Our table has the script's columns.
    assert texts(dumped) == ["[INST]  a  [/INST]  1    [INST]  b  [/INST]  2"]
    assert dumped.path == tmp_path / "answers.sqlite.jsonl" and dumped.wrong == 1


def test_the_file_is_a_source_of_prepare(cache, tmp_path):
    for i in range(5):
        finish(cache, str(i), [f"question {i}"], [f"answer\n{i}"])
    dumped = dump.write(cache, tmp_path)
    read = [document.text for document in Reader(SourceConfig(path=str(dumped.path)), TextConfig())]
    assert read == texts(dumped) and len(read) == 5
