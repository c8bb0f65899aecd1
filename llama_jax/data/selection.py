"""The documents of a store that a source reads: a share of them, some kept back, long ones cut.

Documents are chosen by a hash of their number, those with the smallest, so that the choice is
spread evenly, is the same in every run, and a larger share holds a smaller one. What is chosen is
written down once, as a file of starts and one of ends (stream.py), by streaming over the store's
offsets.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llama_jax.config.data import SourceConfig
from llama_jax.data.derived import derived, numbers
from llama_jax.data.scramble import scramble
from llama_jax.data.stream import Stream, whole
from llama_jax.data.tokens import TokenStore
from llama_jax.telemetry import progress

VERSION = 2
STARTS, ENDS = "starts.bin", "ends.bin"
# Of the two hashes: which documents are kept back, and which of the others are read.
HELD_OUT, READ = 1 << 62, 1 << 63
LARGEST = np.uint64(2**64 - 1)
WINDOW = 1 << 16  # Documents that are hashed at a time.
BINS = 1 << 16


def select(store: TokenStore, source: SourceConfig, folders: list[Path]) -> Stream:
    """Returns the documents that a source reads of its store, in their order.

    Args:
        store: All documents.
        source: Says which of them.
        folders: Where the choice may be kept.
    """
    stream = whole(store)
    if source.fraction == 1 and not source.max_val_set and not source.max_chunk_size:
        return stream
    choice = [source.fraction, source.max_val_set, source.part, source.max_chunk_size]
    recipe = [VERSION, stream.content, choice]
    folder, record = derived("select", recipe, folders, partial(_write, stream, source))
    starts, ends = (numbers(folder, name, record["documents"]) for name in (STARTS, ENDS))
    return Stream(starts, ends, record["tokens"], str(recipe))


def _write(stream: Stream, source: SourceConfig, folder: Path) -> dict[str, Any]:
    documents, tokens = 0, 0
    with (folder / STARTS).open("wb") as starts, (folder / ENDS).open("wb") as ends:
        for start_D, size_D in _chosen(stream, source):
            starts.write(start_D.astype("<i8").tobytes())
            ends.write((tokens + np.cumsum(size_D)).astype("<i8").tobytes())
            documents, tokens = documents + len(start_D), tokens + int(size_D.sum())
    return {"documents": documents, "tokens": tokens}


def _chosen(stream: Stream, source: SourceConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields where the chosen documents of each window start, and their sizes."""
    is_chosen = _rule(stream.documents, source)
    title = f"Choosing documents of {source.path}"
    with progress.bar(title, stream.documents) as show:
        for first, start_D, size_D in stream.windows():
            keep_D = is_chosen(np.arange(first, first + len(size_D), dtype=np.uint64))
            yield _chunks(start_D[keep_D], size_D[keep_D], source.max_chunk_size)
            show(first + len(size_D))


def _rule(documents: int, source: SourceConfig) -> Callable[[np.ndarray], np.ndarray]:
    """Returns numbers of documents -> which of them are read."""
    held_out = min(source.max_val_set, documents)
    last_held_out = _largest_of(held_out, documents, _held_out_hash)

    def is_held_out(number_D: np.ndarray) -> np.ndarray:
        return _held_out_hash(number_D) <= last_held_out

    if source.part == "held_out":
        return is_held_out
    if source.fraction == 1:
        return lambda number_D: ~is_held_out(number_D)
    count = int(Fraction(repr(source.fraction)) * (documents - held_out))

    def read_hash(number_D: np.ndarray) -> np.ndarray:
        hash_D = scramble(number_D + np.uint64(READ))
        return np.where(is_held_out(number_D), LARGEST, hash_D)  # Those come last.

    last_read = _largest_of(count, documents, read_hash)
    return lambda number_D: read_hash(number_D) <= last_read


def _held_out_hash(number_D: np.ndarray) -> np.ndarray:
    return scramble(number_D + np.uint64(HELD_OUT))


def _largest_of(
    count: int, documents: int, hash_of: Callable[[np.ndarray], np.ndarray]
) -> np.uint64:
    """Returns the largest of the `count` smallest hashes; 0, which is below all, if that is none.

    Looks twice at every hash and holds those that share 16 bits with the answer.
    """
    if not count:
        return np.uint64(0)

    def hashes() -> Iterator[np.ndarray]:
        for first in range(0, documents, WINDOW):
            last = min(first + WINDOW, documents)
            yield hash_of(np.arange(first, last, dtype=np.uint64))

    in_bin = sum(np.bincount(_bin(hash_D), minlength=BINS) for hash_D in hashes())
    reached = np.cumsum(in_bin)
    bin = int(np.searchsorted(reached, count))
    inside = np.concatenate([hash_D[_bin(hash_D) == bin] for hash_D in hashes()])
    return np.sort(inside)[count - int(reached[bin]) - 1]


def _bin(hash_D: np.ndarray) -> np.ndarray:
    return (hash_D >> np.uint64(48)).astype(np.int64)


def _chunks(start_D: np.ndarray, size_D: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns documents cut into chunks of at most `most` tokens; 0 cuts none."""
    if not most:
        return start_D, size_D
    count_D = -(-size_D // most)
    number_C = np.arange(count_D.sum()) - np.repeat(np.cumsum(count_D) - count_D, count_D)
    left_C = np.repeat(size_D, count_D) - number_C * most
    return np.repeat(start_D, count_D) + number_C * most, np.minimum(left_C, most)
