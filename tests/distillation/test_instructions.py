"""Every shape of file gives what a person says; what cannot be read is counted or stops."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from llama_jax.config.distill import DistillConfig, ReadingConfig, TeacherConfig
from llama_jax.core.errors import DataError
from llama_jax.distillation import instructions


def read(path, **settings):
    config = DistillConfig(
        workdir="w", instructions=str(path), teacher=TeacherConfig(model="m"), **settings
    )
    return instructions.read(config)


SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "be good"},
        {"from": "human", "value": "one"},
        {"from": "gpt", "value": "1"},
        {"from": "user", "value": "two"},
    ]
}
MESSAGES = {
    "messages": [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]
}


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        (["one", "two"], ("one", "two")),
        (SHAREGPT, ("one", "two")),
        (MESSAGES, ("one", "two")),
        ({"turns": ["one", " ", "two"]}, ("one", "two")),
        ({"instruction": "sum", "input": "1 2", "output": "3"}, ("sum\n\n1 2",)),
        ({"instruction": "hi", "input": ""}, ("hi",)),
        ({"prompt": "hi"}, ("hi",)),
        ({"text": "hi\nthere"}, ("hi\nthere",)),
        ("hi", ("hi",)),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_every_shape_of_a_record(tmp_path, record, turns, ending):
    path = tmp_path / f"a.{ending}"
    path.write_text(json.dumps([record] if ending == "json" else record))
    assert read(path).conversations == [turns]


def test_a_plain_file_has_an_instruction_on_every_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\n\n  two  \nthree")
    assert read(tmp_path / "a.txt").conversations == [("one",), ("two",), ("three",)]


def test_files_of_a_folder_come_in_order_and_each_conversation_once(tmp_path):
    (tmp_path / "b.txt").write_text("one\nthree")
    (tmp_path / "a.json").write_text(json.dumps([["one"], ["two"], ["one", "two"]]))
    found = read(tmp_path)
    assert found.conversations == [("one",), ("two",), ("one", "two"), ("three",)]
    assert found.left_out == {"a duplicate": 1}


def test_the_limit_takes_the_first(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join("abcdef"))
    assert read(tmp_path, limit=2).conversations == [("a",), ("b",)]
    assert len(read(tmp_path, limit=99).conversations) == 6


def test_what_cannot_be_asked_is_counted(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps([["a"], [], ["b [/INST] c"], {"conversations": [{"from": "gpt", "value": "x"}]}])
    )
    found = read(tmp_path)
    assert found.conversations == [("a",)]
    assert found.left_out == {"no question": 2, "holds [INST]": 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"conversations": 7}', "not a list"),
        (b'{"other": 7}', "no field"),
        (b"7", "no conversation"),
        (b'["a", 7]', "not a text"),
        (b'["\\ud800"]', "half a character"),
        (b'{"turns": ["a"', "broken JSON"),
        (b"[" * 10**5, "broken JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"conversations": [{"from": "cat", "value": "x"}]}', "unknown speaker"),
    ],
)
def test_a_wrong_record_stops_with_its_place_or_is_counted(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'["good"]\n' + line + b'\n["better"]\n["best"]')
    with pytest.raises(DataError, match=rf"a.jsonl, line 2: {why}.*text.on_error='skip'"):
        read(path)
    found = read(path, text=ReadingConfig(on_error="skip"))
    assert found.conversations == [("good",), ("better",), ("best",)] and found.left_out[why] == 1


def test_too_many_wrong_records_stop_and_so_does_nothing_at_all(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('["good"]\n' + "7\n" * 20)
    with pytest.raises(DataError, match=r"20 of 21 documents are unreadable"):
        read(path, text=ReadingConfig(on_error="skip"))
    path.write_text("[]\n")
    with pytest.raises(DataError, match=r"holds no instruction; left out: {'no question': 1}"):
        read(path)
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize("ending", ["json", "jsonl", "txt"])
@hypothesis.given(st.binary(max_size=60))
def test_no_bytes_do_anything_else(tmp_path_factory, ending, data):
    path = tmp_path_factory.mktemp("any") / f"a.{ending}"
    path.write_bytes(data)
    try:
        found = read(path)
    except DataError:
        return
    assert all(turn.strip() for turns in found.conversations for turn in turns)


@pytest.mark.parametrize(
    ("name", "count", "turns"),
    [
        ("sharegpt/data/dummy_conversation.json", 154, 3),
        ("sharegpt/fastchat/llm_judge/data/mt_bench/question.jsonl", 80, 2),
        ("tiny/chat_tiny.json", 1, 2),
        ("llama_factory/alpaca_en_demo.json", 985, 1),
    ],
)
def test_real_files(shared, name, count, turns):
    found = read(shared / "data" / "sft" / name)
    assert len(found.conversations) == count
    assert max(map(len, found.conversations)) == turns
