"""What a container gives, what a source gives, and why one of them cannot be used."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from llama_jax.text.chat.conversation import Message

# Tokenising takes about 50 bytes of memory per byte of one document (sentencepiece 0.2.2, measured
# on 16 MB), so this is 3 GB. The largest novel has 10 MB.
LARGEST_DOCUMENT = 64 << 20


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and its name: file inside the source, with the number of the line or row."""

    name: str
    text: str
    # Characters [start, stop) that a model is to learn to write, in order; None is the whole text.
    answers: tuple[tuple[int, int], ...] | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # The record's other fields.
    ids: np.ndarray | None = None  # Of a source of tokens: they stand in for the text.
    # Of a conversation, which the text tells too: for chat templates, whose tokens are not of text.
    messages: tuple[Message, ...] = ()
    example: Any = None  # Of a task, which the text tells too: an Asked.


class Unreadable(Exception):
    """One document cannot be used: the reason it is counted by, and the details."""

    def __init__(self, reason: str, details: str):
        super().__init__(reason, details)
        self.reason, self.details = reason, details


@dataclasses.dataclass(frozen=True)
class Record:
    """One line, row or item of a file, before it is understood."""

    number: int | None  # Counted from 1; None if the whole file is one record.
    value: Any  # As its format's `parse` takes it, or an Unreadable: only this record is lost.
    read: int = 0  # Bytes of the file that were read for it and those before it, if that is known.
