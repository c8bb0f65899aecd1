"""The bytes of a reply -> the answer in it. They come from outside: anything may stand there."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_jax.config.distill import AnswerConfig
from llama_jax.distillation import logprobs, prompts
from llama_jax.distillation.answer import Answer, Unusable


def read(api: str, content_type: str, data: bytes, asked: AnswerConfig) -> Answer:
    """Returns the answer in the body of a reply, with log-probabilities if they were asked for.

    Raises:
        Unusable: There is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Unusable(f"the reply is {kind[:60]}, not JSON")
    value = _object(_json(data), "the reply")
    if value.get("error"):
        raise Unusable(f"the reply is an error: {_said(value['error'])}")
    output = _object(value.get("output"), "output") if api == "together" else value
    if output.get("error"):
        raise Unusable(f"the reply is an error: {_said(output['error'])}")
    choices = output.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Unusable("the reply has no choices")
    choice = _object(choices[0], "the choice")
    text = choice.get("text") if api == "together" else _content(choice)
    usage = output.get("usage") or value.get("usage")
    text, written = _checked(text, asked.stop), _count(usage, "completion_tokens")
    return Answer(
        text,
        _count(usage, "prompt_tokens"),
        written,
        choice.get("finish_reason") == "length",
        logprobs.read(choice, written, asked).text() if asked.top_logprobs else "",
    )


def message(data: bytes) -> str:
    """Returns what the body of an error says, in one short line."""
    try:
        value = _json(data)
    except Unusable:
        return _said(data.decode(errors="replace"))
    return _said(value.get("error", value) if isinstance(value, dict) else value)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError.
        raise Unusable(f"the reply is no JSON: {str(error)[:80]}") from None


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Unusable(f"{name} is no JSON object")
    return value


def _content(choice: Mapping[str, Any]) -> Any:
    return _object(choice.get("message"), "the message").get("content")


def _checked(text: Any, stop: Sequence[str]) -> str:
    """Returns the text before the first stop word: some hosts leave it in."""
    if not isinstance(text, str):
        raise Unusable("the answer is no text")
    text = text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]
    if not text.strip():
        raise Unusable("the answer is empty")
    if marker := prompts.marker_in(text):
        raise Unusable(f"the answer holds {marker}, which ends a turn")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable("the answer holds half a character") from None
    return text


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < 1 << 31 else -1


def _said(value: Any) -> str:
    """Returns the message of an error as one line of letters that a terminal may show."""
    if isinstance(value, dict):
        value = value.get("message") or value.get("detail") or value
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(letter if letter.isprintable() else " " for letter in text[:2000])
    return " ".join(shown.split())[:200]
