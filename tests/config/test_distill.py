"""What a distillation can be told, and what is refused."""

import pytest

from llama_jax.config.distill import (
    AnswerConfig,
    DistillConfig,
    ReadingConfig,
    RetryConfig,
    TeacherConfig,
)


@pytest.mark.parametrize(
    "url", ["https://a.example/v1", "http://127.0.0.1:8000", "http://node7:8000", "http://10.1.2.3"]
)
def test_urls_that_a_key_may_be_sent_to(url):
    assert TeacherConfig(model="m", url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "a.example",
        "ftp://a.example",
        "https://",
        "https://a.example?key=1",
        "https://a:x",
        "https://[",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match=r"it must be http\(s\)://host"):
        TeacherConfig(model="m", url=url)


def test_a_password_in_the_url_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="environment") as refused:
        TeacherConfig(model="m", url="https://me:secret@a.example")
    assert "secret" not in str(refused.value)


def test_a_key_does_not_cross_the_internet_in_the_open():
    with pytest.raises(ValueError, match="unencrypted"):
        TeacherConfig(model="m", url="http://api.example.com")
    with pytest.raises(ValueError, match="unencrypted"):
        TeacherConfig(model="m", url="http://8.8.8.8")
    assert TeacherConfig(model="m", url="http://api.example.com", key_variable="")


@pytest.mark.parametrize(
    ("schema", "setting"),
    [
        (TeacherConfig, {"concurrency": 0}),
        (TeacherConfig, {"timeout": 0.0}),
        (TeacherConfig, {"connect_timeout": float("inf")}),
        (TeacherConfig, {"price_in": -1.0}),
        (AnswerConfig, {"max_tokens": 0}),
        (AnswerConfig, {"temperature": -0.1}),
        (AnswerConfig, {"top_p": 0.0}),
        (AnswerConfig, {"top_k": -1}),
        (AnswerConfig, {"repetition_penalty": 0.0}),
        (AnswerConfig, {"stop": ("a", "")}),
        (AnswerConfig, {"top_logprobs": -1}),
        (AnswerConfig, {"top_logprobs": 21, "vocab": 32000}),
        (AnswerConfig, {"vocab": 32000}),
        (AnswerConfig, {"vocab": -1}),
        (AnswerConfig, {"vocab": 0, "top_logprobs": 5}),
        (AnswerConfig, {"vocab": 4, "top_logprobs": 5}),
        (RetryConfig, {"attempts": 0}),
        (RetryConfig, {"in_a_row": 0}),
        (RetryConfig, {"wait": 3.0, "longest_wait": 2.0}),
        (ReadingConfig, {"largest_skipped_share": 0.5}),
        (DistillConfig, {"limit": -1}),
    ],
)
def test_what_cannot_be_is_refused_by_name(schema, setting):
    needed = {
        TeacherConfig: {"model": "m"},
        DistillConfig: {"workdir": "w", "instructions": "i", "teacher": TeacherConfig(model="m")},
    }
    with pytest.raises(ValueError, match=next(iter(setting))):
        schema(**needed.get(schema, {}) | setting)


def with_logprobs(**changes):
    teacher = TeacherConfig(model="m", api=changes.pop("api", "openai"))
    answer = AnswerConfig(top_logprobs=20, vocab=20)
    return DistillConfig(workdir="w", instructions="i", teacher=teacher, answer=answer, **changes)


def test_log_probabilities_come_from_where_there_are_any():
    assert with_logprobs().answer.vocab == 20
    with pytest.raises(ValueError, match=r"teacher.api is 'together', which sends no log-prob"):
        with_logprobs(api="together")
    with pytest.raises(ValueError, match=r"answers of old_database 'x.db' have no log-prob"):
        with_logprobs(old_database="x.db")
    with pytest.raises(ValueError, match="vocab is 9 but top_logprobs is 0, so it has no effect"):
        AnswerConfig(vocab=9)
