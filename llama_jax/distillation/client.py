"""One request to the teacher over HTTP, and what each way of failing means.

    2xx with an answer                       Answer
    2xx without, 408, 409, 425, 429, 5xx,    Unusable: ask again, after Retry-After if it is given
    no reply, half of one, none in time
    400, 413, 414, 422, 431                  Refused: this request will never be answered
    every other status                       ValueError: no request will be

Redirects are not followed: the key would go to another host.
"""

import asyncio
import datetime
import email.utils
import logging
import math
import os
import types
from typing import Any, Self

from llama_jax.config.distill import AnswerConfig, TeacherConfig
from llama_jax.distillation import reply
from llama_jax.distillation.answer import Answer, Unusable
from llama_jax.distillation.request import PATHS, Request

LARGEST_REPLY = 16 << 20  # Bytes; an answer of 1,024 tokens has about 4,000.
LARGEST_ENTRY = 256  # Bytes of one log-probability; vLLM writes about 130.

_PASSING = (408, 409, 425, 429)
_OF_THIS_REQUEST = (400, 413, 414, 422, 431)


class Refused(Exception):
    """The host will not answer this request; others it may."""


class Client:
    """Connections to the teacher's host.

    Raises:
        ValueError: httpx is not installed, or the environment lacks the key.
    """

    def __init__(self, teacher: TeacherConfig, answer: AnswerConfig):
        self._httpx = _import_httpx()
        for name in ("httpx", "httpcore"):  # They log headers, in which a host may repeat the key.
            logging.getLogger(name).setLevel(logging.WARNING)
        self._key = key_of(teacher)
        self._url = teacher.url.rstrip("/") + PATHS[teacher.api]
        self._teacher, self._asked = teacher, answer
        self._largest = largest_reply(answer)
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        self._connections = self._httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            timeout=self._httpx.Timeout(teacher.timeout, connect=teacher.connect_timeout),
            limits=self._httpx.Limits(max_connections=teacher.concurrency),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connections.aclose()

    async def ask(self, request: Request) -> Answer:
        """Returns the answer to one request, sent once.

        Raises:
            Unusable: None came; another attempt may bring one.
            Refused: None will ever come to this request.
            ValueError: None will come to any.
        """
        try:
            async with asyncio.timeout(self._teacher.timeout):
                status, headers, data = await self._post(request.body)
        except TimeoutError:
            raise Unusable(f"no whole reply within {self._teacher.timeout:g} s") from None
        except self._httpx.HTTPError as error:
            why = self._without_key(str(error)) or "no reason is given"
            raise Unusable(f"{type(error).__name__}: {why}") from None
        return self._understood(status, headers, data)

    async def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        async with self._connections.stream("POST", self._url, json=body) as response:
            pieces, size = [], 0
            async for piece in response.aiter_raw():
                pieces.append(piece)
                size += len(piece)
                if size > self._largest:
                    raise Unusable(f"the reply has more than {self._largest >> 20} MiB")
            return response.status_code, response.headers, b"".join(pieces)

    def _understood(self, status: int, headers: Any, data: bytes) -> Answer:
        if 200 <= status < 300:
            if self._key and self._key.encode() in data:
                raise Unusable("the reply holds the API key")
            kind = headers.get("content-type", "")
            return reply.read(self._teacher.api, kind, data, self._asked)
        said = f"HTTP {status}: {self._without_key(reply.message(data)) or 'no reason is given'}"
        if status in _PASSING or status >= 500:
            raise Unusable(said, retry_after(headers.get("retry-after", "")))
        if status in _OF_THIS_REQUEST:
            raise Refused(said)
        raise ValueError(self._hopeless(status, said, headers))

    def _hopeless(self, status: int, said: str, headers: Any) -> str:
        """Returns the sentence for a status that no request will change."""
        if 300 <= status < 400:
            where = self._without_key(headers.get("location", "elsewhere"))
            return (
                f"{self._url} answers HTTP {status}, a redirect to {where[:200]!r}, which is not "
                "followed. Set config.teacher.url if that is the right place."
            )
        if status in (401, 403):
            name = self._teacher.key_variable
            hint = f"Look at the key in {name}" if name else "Set config.teacher.key_variable"
            return f"{self._url} answers {said}. {hint}."
        if status == 404:
            hint = "Look at config.teacher.url, api and model."
            return f"{self._url} answers {said}. {hint}"
        return f"{self._url} answers {said}. No request will be answered as things are."

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def key_of(teacher: TeacherConfig) -> str:
    """Returns the API key from the environment, "" if none is asked for.

    Raises:
        ValueError: It is not there, or no header can hold it; the message does not show it.
    """
    name = teacher.key_variable
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(
            f"config.teacher.key_variable is {name!r} but the environment has no {name}. Type: "
            f"export {name}=..., or set config.teacher.key_variable='' if {teacher.url} wants none."
        )
    if not all("!" <= letter <= "~" for letter in key):
        raise ValueError(f"the key in {name} holds spaces or other letters than keys have.")
    return key


def largest_reply(answer: AnswerConfig) -> int:
    """Returns how many bytes of a reply are read: more with the log-probabilities of each token."""
    entries = answer.max_tokens * (1 + answer.top_logprobs) if answer.top_logprobs else 0
    return LARGEST_REPLY + entries * LARGEST_ENTRY


def retry_after(value: str) -> float:
    """Returns the seconds that a Retry-After header asks for: a number, or a date; else 0."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return 0.0
        if date.tzinfo is None:  # "-0000": a time of an unknown zone is one of UTC.
            date = date.replace(tzinfo=datetime.UTC)
        seconds = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _import_httpx() -> types.ModuleType:
    try:
        import httpx  # An optional extra: nothing else needs it.
    except ImportError:
        raise ValueError(
            "distillation talks HTTP with httpx, which is not installed. "
            "Type: pip install 'llama-jax[distill]'"
        ) from None
    return httpx
