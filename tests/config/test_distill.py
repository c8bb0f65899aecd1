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
