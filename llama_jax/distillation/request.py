"""What is asked: the JSON body of a request, and the key under which its answer is kept."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llama_jax.config.distill import AnswerConfig, TeacherConfig
from llama_jax.distillation import prompts

VERSION = 1  # Of what a key says; other keys are asked again.

PATHS = {"together": "/inference", "openai": "/chat/completions"}


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to the teacher."""

    api: str
    body: dict[str, Any]
    vocab: int = 0  # The ids that log-probabilities may have; 0 where none are asked for.

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that decides the answer: not of the host, nor of its key."""
        checked = {"vocab": self.vocab} if self.vocab else {}
        return digest({"version": VERSION, "api": self.api, "body": self.body, **checked})


def make(
    teacher: TeacherConfig, answer: AnswerConfig, turns: Sequence[str], answers: Sequence[str]
) -> Request:
    """Returns the request for the answer to the last of `turns`."""
    body = _together if teacher.api == "together" else _openai
    return Request(teacher.api, body(teacher.model, answer, turns, answers), answer.vocab)


def conversation_id(teacher: TeacherConfig, answer: AnswerConfig, turns: Sequence[str]) -> str:
    """Returns the key of a whole conversation: of its first request, and the turns."""
    first = make(teacher, answer, turns[:1], ())
    return digest({"version": VERSION, "first": first.key, "turns": list(turns)})


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, whatever the order of its fields."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _together(
    model: str, answer: AnswerConfig, turns: Sequence[str], answers: Sequence[str]
) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": answer.max_tokens,
        "prompt": prompts.join(turns, answers),
        "request_type": "language-model-inference",
        "temperature": _number(answer.temperature),
        "top_p": _number(answer.top_p),
        "top_k": answer.top_k,
        "repetition_penalty": _number(answer.repetition_penalty),
        "stop": list(answer.stop),
        "safety_model": "",
        # The script sends it under both names.
        "repetitive_penalty": _number(answer.repetition_penalty),
    }


def _openai(
    model: str, answer: AnswerConfig, turns: Sequence[str], answers: Sequence[str]
) -> dict[str, Any]:
    messages = []
    for i, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn})
        if i < len(answers):
            messages.append({"role": "assistant", "content": answers[i]})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": answer.max_tokens,
        "temperature": _number(answer.temperature),
        "top_p": _number(answer.top_p),
    }
    if answer.stop:
        body["stop"] = list(answer.stop)
    if answer.top_k:
        body["top_k"] = answer.top_k
    if answer.repetition_penalty != 1:
        body["repetition_penalty"] = _number(answer.repetition_penalty)
    if answer.top_logprobs:
        # The last is vLLM's: it writes ids, as "token_id:29871", where OpenAI's API has texts.
        named = {"logprobs": True, "top_logprobs": answer.top_logprobs}
        body |= named | {"return_tokens_as_token_ids": True}
    return body


def _number(value: float) -> float:
    """Returns 1 for 1.0, which JSON and so the key would write in another way."""
    return int(value) if value.is_integer() else value
