"""JSON lines: one record per line; blank lines are nothing."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from llama_jax.config.data import SourceConfig
from llama_jax.data.sources import document, utf8
from llama_jax.data.sources.compression import Pieces
from llama_jax.data.sources.document import Record


def read(path: Path, _: SourceConfig) -> Iterator[Record]:
    """Yields the lines of a file as bytes."""
    pieces = Pieces(path)
    for number, line in enumerate(_lines(pieces, document.LARGEST_DOCUMENT), start=1):
        line = line.removeprefix(utf8.BOM) if number == 1 else line
        if line.strip():
            yield Record(number, line, pieces.read)


def _lines(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    r"""Yields lines without their \n; of a line longer than `limit` bytes, the first limit + 1."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        *lines, last = piece.split(b"\n")
        for line in lines:
            yield (b"".join([*held, line]))[: limit + 1]
            held, size = [], 0
        if last and size <= limit:
            held.append(last)
            size += len(last)
    if held:
        yield b"".join(held)[: limit + 1]
