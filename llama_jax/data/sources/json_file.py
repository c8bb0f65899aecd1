"""JSON files: a list of records, or one record, or several one after the other.

A file is read in pieces and no more than one record of it is held. Unlike in JSON lines, nobody
knows where the record after a broken one begins, so the rest of the file is lost with it.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_jax.config.data import SourceConfig
from llama_jax.data.sources import document
from llama_jax.data.sources.compression import Pieces
from llama_jax.data.sources.document import Record, Unreadable

_SPACE = " \t\r\n"


def read(path: Path, _: SourceConfig) -> Iterator[Record]:
    """Yields the records of a file as Python values.

    Raises:
        Unreadable: The file is broken, from here on.
    """
    pieces = Pieces(path)
    text = _Text(iter(pieces))
    values = _items(text) if text.peek() == "[" else _values(text)
    for number, value in enumerate(values, start=1):
        yield Record(number, value, pieces.read)


def _items(text: "_Text") -> Iterator[Any]:
    text.take("[")
    if text.peek() != "]":
        yield text.value()
        while text.peek() != "]":
            text.take(",")
            yield text.value()
    text.take("]")
    if surplus := text.peek():
        raise Unreadable("broken JSON", f"{surplus!r} follows the list")


def _values(text: "_Text") -> Iterator[Any]:
    while text.peek():
        yield text.value()


class _Text:
    """The text of a file from a position on; more of it is read when a value does not end."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._decoder = pieces, codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._at, self._ended = "", 0, False

    def peek(self) -> str:
        """Returns the next character that is no space, "" at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._held) or self._ended:
                return self._held[self._at : self._at + 1]
            self._read(1)

    def take(self, expected: str) -> None:
        """Passes over a character that must be there."""
        if (found := self.peek()) != expected:
            raise Unreadable("broken JSON", f"{found or 'the end'!r} stands in place of {expected}")
        self._at += 1

    def value(self) -> Any:
        """Returns the next value and passes over it."""
        self.peek()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if self._ended or isinstance(error, RecursionError):
                    raise Unreadable("broken JSON", str(error)) from None
            else:
                # At the end, and before these, 12 may be the half of 12345 and of 12.5.
                if self._ended or self._held[end : end + 1] not in ("", ".", "e", "E"):
                    self._at = end
                    return value
            self._read(max(1, len(self._held) - self._at))  # As much again: each try costs double.

    def _read(self, wanted: int) -> None:
        """Reads `wanted` characters more, and forgets those that were passed over."""
        parts, size = [self._held[self._at :]], 0
        while size < wanted and not self._ended:
            piece = next(self._pieces, b"")
            parts.append(self._decode(piece))
            size, self._ended = size + len(parts[-1]), not piece
        self._held, self._at = "".join(parts), 0
        if len(self._held) > 2 * document.LARGEST_DOCUMENT:
            raise Unreadable("too long", f"a record has over {document.LARGEST_DOCUMENT} bytes")

    def _decode(self, piece: bytes) -> str:
        try:
            return self._decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            wrong = f"byte {error.object[error.start]:#04x}"
            raise Unreadable("not UTF-8", wrong) from None
