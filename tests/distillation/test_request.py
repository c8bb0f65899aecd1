"""What is sent, exactly; and a key that everything sent decides, and nothing else."""

import dataclasses
import json

import pytest

from llama_jax.config.distill import AnswerConfig, TeacherConfig
from llama_jax.distillation import request

TEACHER = TeacherConfig(model="togethercomputer/llama-2-70b-chat")
OPENAI = dataclasses.replace(TEACHER, api="openai", url="https://a.example/v1")
TURNS, ANSWERS = ["first", "second"], ["one"]


def test_the_body_is_the_released_scripts():
    """As JSON text, so that 1 is not 1.0."""
    made = request.make(TEACHER, AnswerConfig(), TURNS, ANSWERS)
    assert json.dumps(made.body) == (
        '{"model": "togethercomputer/llama-2-70b-chat", "max_tokens": 1024, '
        '"prompt": "  [INST]  first  [/INST]  one  [INST]  second  [/INST]  ", '
        '"request_type": "language-model-inference", "temperature": 0.7, "top_p": 0.7, '
        '"top_k": 50, "repetition_penalty": 1, "stop": ["[INST]"], "safety_model": "", '
        '"repetitive_penalty": 1}'
    )


def test_the_body_of_chat_completions():
    neutral = AnswerConfig(top_k=0, stop=())
    body = request.make(OPENAI, neutral, TURNS, ANSWERS).body
    assert body == {
        "model": TEACHER.model,
        "messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "second"},
        ],
        "max_tokens": 1024,
        "temperature": 0.7,
        "top_p": 0.7,
    }
    full = request.make(OPENAI, AnswerConfig(repetition_penalty=1.1), TURNS, ANSWERS).body
    assert full == body | {"stop": ["[INST]"], "top_k": 50, "repetition_penalty": 1.1}


LOGPROBS = AnswerConfig(top_logprobs=5, vocab=32000)


def test_log_probabilities_are_asked_for_with_their_ids():
    plain = request.make(OPENAI, AnswerConfig(), TURNS, ANSWERS).body
    asked = request.make(OPENAI, LOGPROBS, TURNS, ANSWERS).body
    more = {"logprobs": True, "top_logprobs": 5, "return_tokens_as_token_ids": True}
    assert asked == plain | more and not set(plain) & set(more)


def test_keys_are_what_they_were():
    """Another would ask everything again that a workdir has."""
    assert [keys(TEACHER), keys(OPENAI)] == [
        "b9bff466c21b49f9b187b53d768ea60b32d5cee22de8bf0bfdbee49eb2897784",
        "9502f6f9c674a806def7a6d52df092aa383e4b385288126827aa498851adba6d",
    ]
    assert request.conversation_id(OPENAI, AnswerConfig(), TURNS) == (
        "79418081dd71528f65e4eee5888b51d2a81e22505e8fe71d849694e51cdff0b9"
    )


@pytest.mark.parametrize("change", [{"top_logprobs": 6}, {"vocab": 32001}, {"stop": ()}])
def test_log_probabilities_have_keys_of_their_own(change):
    assert keys(OPENAI, LOGPROBS) != keys(OPENAI)
    assert keys(OPENAI, dataclasses.replace(LOGPROBS, **change)) != keys(OPENAI, LOGPROBS)
    names = [
        request.conversation_id(OPENAI, answer, TURNS)
        for answer in (LOGPROBS, dataclasses.replace(LOGPROBS, **change), AnswerConfig())
    ]
    assert len(set(names)) == 3


def keys(teacher=TEACHER, answer=None, turns=TURNS, answers=ANSWERS):
    return request.make(teacher, answer or AnswerConfig(), turns, answers).key


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": dataclasses.replace(TEACHER, model="other")},
        {"teacher": OPENAI},
        {"turns": ["first", "other"]},
        {"turns": ["other", "second"]},
        {"answers": ["other"]},
        {"answer": AnswerConfig(max_tokens=1)},
        {"answer": AnswerConfig(temperature=0.0)},
        {"answer": AnswerConfig(top_p=1.0)},
        {"answer": AnswerConfig(top_k=1)},
        {"answer": AnswerConfig(repetition_penalty=2.0)},
        {"answer": AnswerConfig(stop=())},
    ],
)
def test_a_change_of_anything_that_decides_the_answer_is_another_key(change):
    assert keys(**change) != keys()


@pytest.mark.parametrize(
    "change",
    [
        {"url": "https://elsewhere.example"},
        {"key_variable": "OTHER"},
        {"concurrency": 3},
        {"timeout": 1.0},
        {"price_in": 1.0},
    ],
)
def test_a_change_of_the_place_is_the_same_key(change):
    assert keys(teacher=dataclasses.replace(TEACHER, **change)) == keys()


def test_the_order_of_fields_is_the_same_key():
    made = request.make(TEACHER, AnswerConfig(), TURNS, ANSWERS)
    turned = request.Request(made.api, dict(reversed(made.body.items())))
    assert turned.key == made.key
    assert request.Request("openai", made.body).key != made.key


def test_conversations_that_the_script_took_for_one_have_two_ids():
    ids = {
        request.conversation_id(TEACHER, AnswerConfig(), turns)
        for turns in (["a b"], ["a", "b"], ["x", "a b"], ["x", "a", "b"])
    }
    assert len(ids) == 4
