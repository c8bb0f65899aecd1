"""Which files a source consists of, and their bytes, decompressed."""

import gzip
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from llama_jax.config.data import SourceConfig

# What reading a damaged .gz or .zst raises; a plain file raises none of them.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)

_PIECE = 1 << 20
_ZSTD_PIECE = 4096  # 4 bytes can become 128 KiB, so 4 KiB become 128 MiB at the worst.


def list_files(source: SourceConfig) -> list[Path]:
    """Returns the source's files, sorted by path; a single file is its own list.

    Raises:
        ValueError: The path does not exist, or nothing in the folder matches.
    """
    root = Path(source.path)
    if not source.path or not root.exists():
        raise ValueError(f"the source {source.path!r} does not exist. Set its path to real files.")
    if root.is_file():
        return [root]
    pattern = PurePosixPath(source.pattern)
    if not pattern.parts or pattern.is_absolute() or ".." in pattern.parts:
        raise ValueError(f"pattern is {source.pattern!r}; it must be a glob inside {root}.")
    found = [path for path in root.glob(source.pattern) if path.is_file()]
    kept = sorted(path for path in found if not _is_excluded(path.relative_to(root), source))
    if not kept:
        raise ValueError(
            f"no file in {root} matches pattern {source.pattern!r} with exclude "
            f"{source.exclude!r} ({len(found)} excluded)."
        )
    return kept


def name_in(source: SourceConfig, path: Path) -> str:
    """Returns the file's name inside the source: the same on every machine."""
    root = Path(source.path)
    return path.name if path == root else path.relative_to(root).as_posix()


def is_jsonl(source: SourceConfig, path: Path) -> bool:
    """True if the file holds a JSON document per line, by the source's format or by its name."""
    if source.format != "auto":
        return source.format == "jsonl"
    return path.name.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl")


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yields a file's bytes, decompressed by the ending of its name, never all at once.

    Raises:
        One of DAMAGED: A compressed file is cut short or changed.
    """
    if path.suffix == ".zst":
        with open(path, "rb") as file:
            yield from _decompress_zstd(file)
        return
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        while piece := file.read1(_PIECE):  # read() would lose what precedes the damage.
            yield piece


def read_lines(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
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


def _is_excluded(path: Path, source: SourceConfig) -> bool:
    return any(fnmatch(part, pattern) for part in path.parts for pattern in source.exclude)
