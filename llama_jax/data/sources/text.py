"""Plain text: one document per file; CRLF line ends become LF, a byte order mark is dropped."""

from collections.abc import Iterator
from pathlib import Path

from llama_jax.config.data import SourceConfig
from llama_jax.data.sources import document, utf8
from llama_jax.data.sources.compression import Pieces
from llama_jax.data.sources.document import Record


def read(path: Path, _: SourceConfig) -> Iterator[Record]:
    """Yields the file itself."""
    yield Record(None, path)


def parse(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        Unreadable: It is damaged, no UTF-8, or too long.
    """
    pieces, size = [], 0
    for piece in Pieces(path):
        pieces.append(piece)
        size += len(piece)
        if size > document.LARGEST_DOCUMENT:
            break
    return utf8.decode(b"".join(pieces).removeprefix(utf8.BOM)).replace("\r\n", "\n")
