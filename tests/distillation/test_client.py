"""One request to a real server: each way in which it misbehaves, and what becomes of the key."""

import asyncio
import datetime
import email.utils
import logging
import time

import pytest
import teacher as teachers

from llama_jax.config.distill import AnswerConfig
from llama_jax.distillation import client, request
from llama_jax.distillation.answer import Unusable
from llama_jax.distillation.client import Client, Refused


@pytest.fixture
def ask(serve, settings):
    """A function that sends one request to a teacher that behaves so."""

    def run(behave, **teacher):
        server = serve(behave)
        config = settings(server.url, teacher=teacher)
        wanted = request.make(config.teacher, AnswerConfig(), ["hello"], [])

        async def once():
            async with Client(config.teacher, config.answer) as connections:
                return await connections.ask(wanted)

        return server, lambda: asyncio.run(once())

    return run


def test_the_request_is_what_the_host_gets(ask):
    server, once = ask(lambda *_: "yes")
    assert once().text == "yes"
    assert server.paths == ["/inference"] and server.calls[0]["prompt"].startswith("  [INST]  he")
    headers = {name.lower(): value for name, value in server.headers[0].items()}
    assert headers["authorization"] == f"Bearer {teachers.KEY}"
    assert headers["content-type"] == "application/json"
    server, once = ask(lambda *_: "yes", api="openai", key_variable="")
    assert once().tokens_in == 100 and server.paths == ["/chat/completions"]
    assert "authorization" not in {name.lower() for name in server.headers[0]}


@pytest.mark.parametrize(
    ("misbehave", "why"),
    [
        (teachers.reset, "ReadError|RemoteProtocolError"),
        (teachers.half, "RemoteProtocolError"),
        (teachers.giant, "more than 16 MiB"),
        (teachers.reply(b"<html>busy</html>", kind="text/html"), "text/html"),
        (teachers.reply({"error": "busy"}), "busy"),
        (teachers.reply({"error": "slow down"}, 429), "HTTP 429: slow down"),
        (teachers.reply(b"", 500), "HTTP 500: no reason"),
        (teachers.reply(b"oh", 502), "HTTP 502: oh"),
        (teachers.reply(b"oh", 503), "HTTP 503"),
        (teachers.reply(b"oh", 504), "HTTP 504"),
    ],
)
def test_what_may_pass_is_asked_again(ask, misbehave, why):
    with pytest.raises(Unusable, match=why):
        ask(lambda *_: misbehave)[1]()


@pytest.mark.parametrize("misbehave", [teachers.drip, teachers.silent])
def test_the_whole_request_has_a_deadline(ask, misbehave):
    _, once = ask(lambda *_: misbehave, timeout=0.3)
    start = time.monotonic()
    with pytest.raises(Unusable, match=r"no whole reply within 0.3 s|ReadTimeout"):
        once()
    assert time.monotonic() - start < 3


def test_no_host_is_a_reason_to_ask_again(settings, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", teachers.KEY)
    config = settings("http://127.0.0.1:9")  # Discard: nobody listens.
    wanted = request.make(config.teacher, AnswerConfig(), ["hello"], [])

    async def once():
        async with Client(config.teacher, AnswerConfig()) as connections:
            return await connections.ask(wanted)

    with pytest.raises(Unusable, match="ConnectError"):
        asyncio.run(once())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_can_be_refused_for_its_own_sake(ask, status):
    with pytest.raises(Refused, match=f"HTTP {status}: too long"):
        ask(lambda *_: teachers.reply({"error": {"message": "too long"}}, status))[1]()


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "the key in TEACHER_KEY"),
        (403, "the key in"),
        (404, "url, api and model"),
        (402, "No"),
    ],
)
def test_what_will_not_pass_is_one_sentence(ask, status, hint):
    with pytest.raises(ValueError, match=f"answers HTTP {status}: no such.*{hint}"):
        ask(lambda *_: teachers.reply({"error": {"message": "no such"}}, status))[1]()


def test_a_redirect_is_not_followed(ask, serve):
    other = serve(lambda *_: "mine")
    with pytest.raises(ValueError, match=f"a redirect to '{other.url}/inference'"):
        ask(lambda *_: teachers.reply(b"", 307, location=f"{other.url}/inference"))[1]()
    assert not other.calls


def test_the_key_is_never_told(ask, caplog):
    caplog.set_level(logging.DEBUG)
    for status in (200, 400, 401, 404, 500):
        echo = teachers.reply({"error": f"wrong key {teachers.KEY}"}, status)
        with pytest.raises((Unusable, Refused, ValueError)) as told:
            ask(lambda *_, echo=echo: echo)[1]()
        assert teachers.KEY not in str(told.value) and "key" in str(told.value)
    with pytest.raises(Unusable, match="holds the API key"):
        ask(lambda *_: f"Your key is {teachers.KEY}")[1]()
    logging.getLogger("somebody").debug("listens")
    elsewhere = teachers.reply(b"", 302, location=f"http://x/{teachers.KEY}")
    with pytest.raises(ValueError, match=r"x/\*\*\*"):
        ask(lambda *_: elsewhere)[1]()
    assert "listens" in caplog.text and teachers.KEY not in caplog.text


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nend", "schlüssel"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(settings, monkeypatch, key):
    monkeypatch.setenv("TEACHER_KEY", key)
    with pytest.raises(ValueError, match="TEACHER_KEY") as refused:
        client.key_of(settings("http://127.0.0.1").teacher)
    assert not key.strip() or key not in str(refused.value)


def test_how_long_a_host_asks_to_wait():
    assert client.retry_after("7") == 7
    assert client.retry_after("0.5") == 0.5
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    assert 55 < client.retry_after(email.utils.format_datetime(later, usegmt=True)) <= 60
    for nothing in ("", "-3", "nan", "inf", "soon", "9" * 5000, "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert client.retry_after(nothing) == 0


def test_httpx_that_is_not_installed_is_said(settings, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "httpx", None)
    with pytest.raises(ValueError, match=r"pip install 'llama-jax\[distill\]'"):
        Client(settings("http://127.0.0.1").teacher, AnswerConfig())
