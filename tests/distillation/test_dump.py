"""Lines of texts: the released format, bytes that only the answers decide."""

import json
import tracemalloc

import pytest

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.data.sources.documents import Reader
from llama_jax.distillation import dump, old_database, prompts
from llama_jax.distillation.answer import Answer
from llama_jax.distillation.cache import Cache


@pytest.fixture
def cache(tmp_path):
    with Cache(tmp_path / dump.CACHE) as cache:
        yield cache


def finish(cache, name, turns, answers, keys=()):
    cache.finish(name, turns, prompts.join(turns, answers), keys)


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


def weigh(cache, *keys):
    for key in keys:
        cache.store(key, Answer("x", logprobs=json.dumps({"ids": key})))


def told(folder):
    path = folder / "logprobs.jsonl"
    return [json.loads(line)["answers"] for line in path.read_text().splitlines()]


def test_log_probabilities_stand_line_by_line_beside_the_texts(cache, tmp_path):
    """Also of conversations without any, and not of those that are left out."""
    weigh(cache, "k1", "k2", "k3", "k4")
    finish(cache, "d", ["4"], ["x"], ["k3"])
    finish(cache, "b", ["2"], ["y"])
    finish(cache, "a", ["1", "1b"], ["x", "z"], ["k2", "k1"])
    cache.finish("c", ["3"], prompts.join(["other"], ["x"]), ["k4"])
    dumped = dump.write(cache, tmp_path)
    assert (dumped.lines, dumped.wrong, dumped.with_logprobs) == (3, 1, 2)
    assert [text[:10] for text in texts(dumped)] == [f"[INST]  {i} " for i in (1, 2, 4)]
    assert told(tmp_path) == [[{"ids": "k2"}, {"ids": "k1"}], [], [{"ids": "k3"}]]


def test_where_none_were_asked_for_there_is_no_file(cache, tmp_path):
    finish(cache, "a", ["1"], ["x"])
    (tmp_path / "logprobs.jsonl").write_text("of other texts")
    dump.write(cache, tmp_path)
    assert not (tmp_path / "logprobs.jsonl").exists()


@pytest.mark.parametrize("step", range(3))
def test_interrupted_anywhere_no_line_stands_beside_another_text(
    cache, tmp_path, monkeypatch, step
):
    """Three steps: the old file goes, the texts are written, the new one is."""
    weigh(cache, "k1", "k2")
    finish(cache, "b", ["2"], ["x"], ["k2"])
    before = dump.write(cache, tmp_path).path.read_bytes()
    finish(cache, "a", ["1"], ["x"], ["k1"])
    calls = iter(range(3))

    def killed(act):
        def run(path, *values, **options):
            if next(calls) == step:
                raise KeyboardInterrupt
            return act(path, *values, **options)

        return run

    monkeypatch.setattr(dump.files, "write_pieces", killed(dump.files.write_pieces))
    monkeypatch.setattr(dump.Path, "unlink", killed(dump.Path.unlink))
    with pytest.raises(KeyboardInterrupt):
        dump.write(cache, tmp_path)
    monkeypatch.undo()
    now = (tmp_path / "instructions.jsonl").read_bytes()
    if (tmp_path / "logprobs.jsonl").exists():
        assert now == before and told(tmp_path) == [[{"ids": "k2"}]]
    dump.write(cache, tmp_path)
    assert told(tmp_path) == [[{"ids": "k1"}], [{"ids": "k2"}]]


def test_log_probabilities_are_not_gathered_in_memory(cache, tmp_path):
    weigh(cache, "k")
    one = 1_000_000
    with cache.at_once():
        cache.store("big", Answer("x", logprobs=json.dumps("p" * one)))
        for i in range(60):
            finish(cache, f"{i:03}", [str(i)], ["x"], ["big"])
    tracemalloc.start()
    dump.write(cache, tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "logprobs.jsonl").stat().st_size > 60 * one and most < 20 * one
