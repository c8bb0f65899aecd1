"""Whatever a host sends is an answer or unusable, and nothing else."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from llama_jax.config.distill import AnswerConfig
from llama_jax.distillation import reply
from llama_jax.distillation.answer import Answer, Unusable

JSON = "application/json"
ENDLESS = AnswerConfig(stop=())


def together(**choice):
    return json.dumps({"output": {"choices": [choice]}}).encode()


def test_an_answer_of_each_api():
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    body = {"output": {"choices": [{"text": " yes "}], "usage": usage}}
    assert reply.read("together", JSON, json.dumps(body).encode(), ENDLESS) == Answer(" yes ", 3, 4)
    choice = {"message": {"content": "yes"}, "finish_reason": "length"}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    assert reply.read("openai", "application/json; charset=utf-8", body, ENDLESS) == Answer(
        "yes", 3, 4, True
    )


def test_what_is_not_asked_for_is_not_looked_at():
    """As log-probabilities that are none."""
    data = b'{"output": {"choices": [{"text": "yes", "logprobs": {"tokens": [NaN, 1e999]}}]}}'
    assert reply.read("together", JSON, data, ENDLESS) == Answer("yes")


def test_an_answer_ends_before_the_first_stop_word():
    data = together(text="yes [INST] no STOP")
    assert reply.read("together", JSON, data, AnswerConfig(stop=("STOP", "[INST]"))).text == "yes "


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        ("text/html", together(text="yes"), "text/html"),
        (JSON, b"<html>busy</html>", "no JSON"),
        (JSON, b"", "no JSON"),
        (JSON, b'{"output": {"choices": [', "no JSON"),
        (JSON, b"\xff\xfe", "no JSON"),
        (JSON, b"[" * 100_000, "no JSON"),
        (JSON, b"[]", "no JSON object"),
        (JSON, b'{"error": {"message": "busy"}}', "busy"),
        (JSON, b'{"output": {"error": "busy"}}', "busy"),
        (JSON, b'{"output": null}', "output is no"),
        (JSON, b'{"output": {"choices": []}}', "no choices"),
        (JSON, b'{"output": {"choices": [NaN]}}', "choice is no"),
        (JSON, together(text=None), "no text"),
        (JSON, together(text=7), "no text"),
        (JSON, together(text=""), "empty"),
        (JSON, together(text=" \n"), "empty"),
        (JSON, together(text="STOP and more"), "empty"),
        (JSON, together(text="\ud800"), "half a character"),
        (JSON, together(text="a [/INST] b"), r"\[/INST\]"),
    ],
)
def test_anything_else_is_unusable_and_says_why(kind, data, why):
    with pytest.raises(Unusable, match=why):
        reply.read("together", kind, data, AnswerConfig(stop=("STOP",)))


@pytest.mark.parametrize("usage", [None, 7, {"prompt_tokens": -3, "completion_tokens": 1e9}, {}])
def test_counts_that_are_none_are_not_believed(usage):
    data = json.dumps({"output": {"choices": [{"text": "yes"}]}, "usage": usage}).encode()
    found = reply.read("together", JSON, data, ENDLESS)
    assert (found.tokens_in, found.tokens_out) == (-1, -1)


@hypothesis.given(st.binary(max_size=60), st.sampled_from(["together", "openai"]))
def test_no_bytes_do_anything_else(data, api):
    assert "\n" not in reply.message(data)
    with pytest.raises(Unusable):
        reply.read(api, "", data, ENDLESS)


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["output", "choices", "text", "message", "content", "error", "usage"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis.given(values, st.sampled_from(["together", "openai"]))
def test_no_json_does_anything_else(value, api):
    data = json.dumps(value).encode()
    reply.message(data)
    try:
        found = reply.read(api, JSON, data, ENDLESS)
    except Unusable:
        return
    assert found.text.strip() and found.text.encode()


def test_what_an_error_says_is_one_line_without_escapes():
    said = reply.message(b'{"error": {"message": "bad\\n\\u001b[31mkey ' + b"x" * 500 + b'"}}')
    assert said.startswith("bad [31mkey xxx") and len(said) == 200
    assert reply.message(b"plain\ntext") == "plain text"
