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
