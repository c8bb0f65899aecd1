r"""Conversations -> `<human>: ...\n<bot>: ...`; what the bot says is learned.

What the system says stands before what the human says next, with an empty line between. The
messages stay beside that text, for chat templates (preparation/chats.py).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields
from llama_jax.text.chat.conversation import Message, Role

Speaker = Literal["system", "human", "assistant"]

_SPEAKERS: dict[str, Speaker] = {
    "system": "system",
    "developer": "system",
    "human": "human",
    "user": "human",
    "prompter": "human",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


_ROLES: dict[Speaker, Role] = {"system": "system", "human": "user", "assistant": "assistant"}


class Turn(NamedTuple):
    """What one says before another speaks."""

    speaker: Speaker
    text: str


def parse_sharegpt(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {from, value}."""
    yield document(sharegpt_turns(record), fields.rest(record, ("conversations",)))


def parse_orca_chat(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {input, output}, with the instruction as the system's."""
    yield document(orca_turns(record), fields.rest(record, ("conversation", "instruction")))


def parse_messages(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {role, content}, OpenAI's; content may be a list of texts."""
    said = fields.objects(record, "messages")
    turns = [Turn(speaker(turn, "role"), _content(turn)) for turn in said]
    yield document(turns, fields.rest(record, ("messages",)))


def parse_instruction(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields an instruction, its input if it has one, and what is answered: Alpaca's."""
    asked = Turn("human", fields.text(record, "instruction"))
    answer = Turn("assistant", fields.text(record, "output", "response"))
    given = fields.text({"input": "", **record}, "input")
    meta = fields.rest(record, ("instruction", "input", "output", "response"))
    yield document([asked, answer], meta, given)


def document(turns: Sequence[Turn], meta: Mapping[str, Any], given: str = "") -> Document:
    """Returns the turns as a text and as messages; the first is about what is `given`."""
    messages = [Message(_ROLES[speaker], text) for speaker, text in turns]
    if given.strip():
        messages[0] = messages[0]._replace(input=given)
        turns = [Turn(turns[0].speaker, f"{turns[0].text}\n\n{given}"), *turns[1:]]
    return dataclasses.replace(join(pieces(turns), meta), messages=tuple(messages))


def sharegpt_turns(record: Mapping[str, Any]) -> list[Turn]:
    """Returns who says what; distillation asks the human turns alone."""
    said = fields.objects(record, "conversations")
    return [Turn(speaker(turn, "from"), fields.text(turn, "value")) for turn in said]


def orca_turns(record: Mapping[str, Any]) -> list[Turn]:
    """Returns the instruction, if there is one, and the pairs."""
    system = fields.text({"instruction": "", **record}, "instruction")
    turns = [Turn("system", system)]
    for pair in fields.objects(record, "conversation"):
        turns.append(Turn("human", fields.text(pair, "input")))
        turns.append(Turn("assistant", fields.text(pair, "output")))
    return turns


def pieces(turns: Iterable[Turn]) -> Iterator[Piece]:
    """Yields the conversation; an answer is learned if something was asked before it.

    Turns without a word are left out.
    """
    end = preface = ""
    is_asked = False
    for speaker, text in turns:
        if not text.strip():
            continue
        if speaker == "system":
            preface += f"{text}\n\n"
        elif speaker == "human":
            yield Piece(f"{end}<human>: {preface}{text}")
            end, preface, is_asked = "\n", "", True
        else:
            yield Piece(f"{end}<bot>: ")
            yield Piece(text, is_asked)
            end = "\n"


def speaker(turn: Mapping[str, Any], field: str) -> Speaker:
    """Returns who speaks, whatever they are called.

    Raises:
        Unreadable: Nobody is called so.
    """
    name = fields.text(turn, field)
    if name not in _SPEAKERS:
        known = ", ".join(map(repr, _SPEAKERS))
        raise Unreadable(
            "unknown speaker", f"{field!r} is {name[:40]!r}; it must be one of {known}"
        )
    return _SPEAKERS[name]


def _content(turn: Mapping[str, Any]) -> str:
    """Returns a content that is a text, or a list of {"type": "text", "text": ...}."""
    if not isinstance(turn.get("content"), list):
        return fields.text(turn, "content")
    return "".join(fields.text(part, "text") for part in fields.objects(turn, "content"))
