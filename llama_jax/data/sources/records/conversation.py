r"""Conversations (ShareGPT, orca-chat) -> `<human>: ...\n<bot>: ...`; what the bot says is learned.

What the system says stands before what the human says next, with an empty line between.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields

Speaker = Literal["system", "human", "assistant"]

_SPEAKERS: dict[str, Speaker] = {
    "system": "system",
    "human": "human",
    "user": "human",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


class Turn(NamedTuple):
    """What one says before another speaks."""

    speaker: Speaker
    text: str


def parse_sharegpt(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {from, value}."""
    meta = fields.rest(record, ("conversations",))
    turns = sharegpt_turns(record)
    yield join(pieces(turns), meta, origin=turns)


def parse_orca_chat(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation of {input, output}, with the instruction as the system's."""
    meta = fields.rest(record, ("conversation", "instruction"))
    turns = orca_turns(record)
    yield join(pieces(turns), meta, origin=turns)


def sharegpt_turns(record: Mapping[str, Any]) -> list[Turn]:
    """Returns who says what; distillation asks the human turns alone."""
    said = fields.objects(record, "conversations")
    return [Turn(_speaker(turn), fields.text(turn, "value")) for turn in said]


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


def _speaker(turn: Mapping[str, Any]) -> Speaker:
    name = fields.text(turn, "from")
    if name not in _SPEAKERS:
        known = ", ".join(map(repr, _SPEAKERS))
        raise Unreadable("unknown speaker", f"'from' is {name[:40]!r}; it must be one of {known}")
    return _SPEAKERS[name]
