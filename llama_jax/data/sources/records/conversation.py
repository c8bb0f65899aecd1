r"""Conversations -> `<human>: ...\n<bot>: ...`; what the bot says is learned.

What the system says stands before what the human says next, with an empty line between. The
messages stay beside that text, for chat templates (preparation/chats.py) and for joining.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields
from llama_jax.text.chat.conversation import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


def parse_sharegpt(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {from, value}."""
    yield document(sharegpt_messages(record), fields.rest(record, ("conversations",)))


def parse_orca_chat(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {input, output}, with the instruction as the system's."""
    messages = [Message("system", fields.text({"instruction": "", **record}, "instruction"))]
    for pair in fields.objects(record, "conversation"):
        messages.append(Message("user", fields.text(pair, "input")))
        messages.append(Message("assistant", fields.text(pair, "output")))
    yield document(messages, fields.rest(record, ("conversation", "instruction")))


def parse_messages(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {role, content}, OpenAI's; content may be a list of texts."""
    said = fields.objects(record, "messages")
    messages = [Message(role(message, "role"), _content(message)) for message in said]
    yield document(messages, fields.rest(record, ("messages",)))


def parse_instruction(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields an instruction, its input if it has one, and what is answered: Alpaca's."""
    given = fields.text({"input": "", **record}, "input")
    asked = Message(
        "user", fields.text(record, "instruction"), input=given if given.strip() else ""
    )
    answer = Message("assistant", fields.text(record, "output", "response"))
    meta = fields.rest(record, ("instruction", "input", "output", "response"))
    yield document([asked, answer], meta)


def sharegpt_messages(record: Mapping[str, Any]) -> list[Message]:
    """Returns who says what; distillation asks the user's messages alone."""
    said = fields.objects(record, "conversations")
    return [Message(role(turn, "from"), fields.text(turn, "value")) for turn in said]


def document(messages: Iterable[Message], meta: Mapping[str, Any], name: str = "") -> Document:
    """Returns a conversation as a text, with its messages beside it."""
    messages = tuple(messages)
    return dataclasses.replace(join(pieces(messages), meta, name), messages=messages)


def pieces(messages: Iterable[Message]) -> Iterator[Piece]:
    """Yields the conversation; an answer is learned if something was asked before it.

    Messages without a word are left out.
    """
    end = preface = ""
    is_asked = False
    for role, text, given in messages:
        if not (text.strip() or given):
            continue
        if role == "system":
            preface += f"{text}\n\n"
        elif role == "user":
            yield Piece(f"{end}<human>: {preface}{text}" + (f"\n\n{given}" if given else ""))
            end, preface, is_asked = "\n", "", True
        else:
            yield Piece(f"{end}<bot>: ")
            yield Piece(text, is_asked)
            end = "\n"


def role(message: Mapping[str, Any], field: str) -> Role:
    """Returns who speaks, whatever they are called.

    Raises:
        Unreadable: Nobody is called so.
    """
    name = fields.text(message, field)
    if name not in _ROLES:
        known = ", ".join(map(repr, _ROLES))
        raise Unreadable(
            "unknown speaker", f"{field!r} is {name[:40]!r}; it must be one of {known}"
        )
    return _ROLES[name]


def _content(turn: Mapping[str, Any]) -> str:
    """Returns a content that is a text, or a list of {"type": "text", "text": ...}."""
    if not isinstance(turn.get("content"), list):
        return fields.text(turn, "content")
    return "".join(fields.text(part, "text") for part in fields.objects(turn, "content"))
