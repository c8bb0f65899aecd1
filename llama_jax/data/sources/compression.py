"""The bytes of a file, decompressed by the ending of its name, never all at once."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from llama_jax.data.sources.document import Unreadable

# Text shrinks to a third or a fifth, the same line over and over to a hundredth. A file that grows
# by more than this is made to fill a disk; small ones may, they do no harm.
LARGEST_RATIO = 200
HARMLESS = 64 << 20

_PIECE = 1 << 20
_ZSTD_PIECE = 4096  # 4 bytes can become 128 KiB, so 4 KiB become 128 MiB at the worst.
# What reading a damaged .gz or .zst raises; a plain file raises none of them.
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


class Pieces:
    """A file's content in pieces of at most a MiB; `read` counts bytes as they lie on the disk."""

    def __init__(self, path: Path):
        self._path, self.read = path, 0

    def __iter__(self) -> Iterator[bytes]:
        """Yields the pieces.

        Raises:
            Unreadable: A compressed file is cut short, changed, or grows beyond all measure.
        """
        written, suffix = 0, self._path.suffix
        try:
            with open(self._path, "rb") as file:
                for piece in _contents(file, suffix):
                    written, self.read = written + len(piece), file.tell()
                    if suffix in (".gz", ".zst"):
                        check_ratio(written, self.read)
                    for start in range(0, len(piece), _PIECE):
                        yield piece[start : start + _PIECE]
        except _DAMAGED as error:
            raise Unreadable("damaged file", str(error)) from None


def _contents(file: IO[bytes], suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        yield from _decompress_zstd(file)
    elif suffix == ".gz":
        with gzip.open(file) as content:
            yield from _reads(content)
    else:
        yield from _reads(file)


def _reads(file: Any) -> Iterator[bytes]:
    while piece := file.read1(_PIECE):  # read() would lose what precedes the damage.
        yield piece


def check_ratio(written: int, read: int) -> None:
    """Raises Unreadable if so many bytes were, or will be, written for those that were read."""
    if written > HARMLESS and written > LARGEST_RATIO * read:
        raise Unreadable(
            "decompression bomb",
            f"{read} compressed bytes became {written}, more than {LARGEST_RATIO} times as many",
        )


def _decompress_zstd(file: IO[bytes]) -> Iterator[bytes]:
    """Yields the content of every frame; unlike the library's reader, an open end is an error."""
    frame = None
    while data := file.read(_ZSTD_PIECE):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            if out := frame.decompress(data):
                yield out
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends inside a compressed frame")
