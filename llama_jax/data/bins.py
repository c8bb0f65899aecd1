"""Which whole documents share a row of T tokens: first-fit, best-fit by length, or none.

Four documents, T = 7, packed by "first_fit":

    documents      a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12 | b0 b1 b2 b3 | c0 c1 c2 c3 | d0 d1

    row 0  token     a0 a1 a2 a3 a4 a5 a6
           target    a1 a2 a3 a4 a5 a6 a7
           segment    1  1  1  1  1  1  1
           position   0  1  2  3  4  5  6
           weight     1  1  1  1  1  1  1

    row 1  token     a7 a8 a9 a10 a11 d0  0
           target    a8 a9 a10 a11 a12 d1 0
           segment    1  1  1  1  1  2  0
           position   0  1  2  3  4  0  0
           weight     1  1  1  1  1  1  0

    row 2  token     b0 b1 b2 c0 c1 c2  0
           target    b1 b2 b3 c1 c2 c3  0
           segment    1  1  1  2  2  2  0
           position   0  1  2  0  1  2  0
           weight     1  1  1  1  1  1  0

A piece of n tokens takes n - 1 places: its last token is predicted and predicts nothing. So a
document of up to T + 1 tokens is never cut, and every token but the first of its document is a
target exactly once. A longer document (a) is cut into pieces of T places and a rest, which begins
with the token that was predicted last (a7).

Pieces are taken longest first. "first_fit" takes the first row with room; "best_fit" the one with
the least room that is enough: d would go to row 2, which it fills. "alone" gives every piece a row
of its own. Fitted together are the
documents of a window, 2^14 that follow each other, so that memory does not grow with the store.

The plan is a function of the store's content, T and the kind of fit. It is made once and kept
beside the store, or in the run's cache where nothing can be written there:

    pack-first_fit-L7-<hash>/
        rows.bin       int64 [rows + 1]; row i is pieces rows[i]:rows[i+1]
        pieces.bin     int64 [pieces, 2]; tokens [start, stop) of the store
        record.json    written last: counts
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llama_jax.data.derived import derived, numbers
from llama_jax.data.numbers import NumberFile
from llama_jax.data.stream import WINDOW, Stream
from llama_jax.telemetry import progress

Fit = Literal["first_fit", "best_fit", "alone"]

VERSION = 1  # Of the plans.
ROWS, PIECES = "rows.bin", "pieces.bin"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows of pieces, in files."""

    rows: NumberFile
    pieces: NumberFile
    places: int  # That hold a token, in all rows.

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.rows) - 1

    def row(self, index: int) -> np.ndarray:
        """Returns the pieces of a row as ranges [P, 2] of the store."""
        first, last = self.rows.rising(index, index + 2).tolist()
        return self.pieces[2 * first : 2 * last].reshape(-1, 2)


def open_plan(stream: Stream, length: int, fit: Fit, folders: list[Path]) -> Plan:
    """Returns the plan of a stream; it is made in the first folder that can be written to.

    Args:
        stream: The documents.
        length: T.
        fit: How rows are chosen.
        folders: Where a plan may be, or be put.

    Raises:
        DataError: A plan's files are not what it says.
    """
    recipe = [VERSION, WINDOW, stream.content]
    write = partial(_write, stream, length, fit)
    folder, record = derived(f"pack-{fit}-L{length}", recipe, folders, write)
    rows = numbers(folder, ROWS, record["rows"] + 1)
    return Plan(rows, numbers(folder, PIECES, 2 * record["pieces"]), record["places"])


def fitted(start_D: np.ndarray, size_D: np.ndarray, length: int, fit: Fit) -> tuple:
    """Returns the pieces [P, 2] of D documents, row by row, and how many each row has."""
    piece_P2 = _cut(start_D, size_D, length)
    place_P = piece_P2[:, 1] - piece_P2[:, 0] - 1
    row_P = _assign(place_P, length, _FITS[fit])
    order = np.argsort(row_P, kind="stable")
    return piece_P2[order], np.bincount(row_P)


def _cut(start_D: np.ndarray, size_D: np.ndarray, length: int) -> np.ndarray:
    """Returns the documents in pieces of up to `length` places; one token alone gives none."""
    count_D = np.maximum(-(-(size_D - 1) // length), 0)
    number_P = np.arange(count_D.sum()) - np.repeat(np.cumsum(count_D) - count_D, count_D)
    start_P = np.repeat(start_D, count_D) + number_P * length
    end_P = np.repeat(start_D + size_D, count_D)
    return np.stack([start_P, np.minimum(start_P + length + 1, end_P)], axis=1)


def _assign(place_P: np.ndarray, length: int, choose: Callable) -> np.ndarray:
    """Returns the row of each piece."""
    row_P = np.empty(len(place_P), np.int64)
    order = np.argsort(-place_P, kind="stable")
    full = int((place_P == length).sum())
    row_P[order[:full]] = np.arange(full)
    free, used = np.full(len(place_P) - full + 1, length), 0
    for piece, places in zip(order[full:].tolist(), place_P[order[full:]].tolist(), strict=True):
        row = choose(free[: used + 1], places)  # The last one is empty yet.
        free[row] -= places
        used += row == used
        row_P[piece] = full + row
    return row_P


def _first_fit(free: np.ndarray, places: int) -> int:
    return int(np.argmax(free >= places))


def _best_fit(free: np.ndarray, places: int) -> int:
    # Rows without room come last: as unsigned numbers what they lack is large.
    return int(np.argmin((free - places).view(np.uint64)))


def _alone(free: np.ndarray, places: int) -> int:
    return len(free) - 1  # The empty one.


_FITS = {"first_fit": _first_fit, "best_fit": _best_fit, "alone": _alone}


def _write(stream: Stream, length: int, fit: Fit, folder: Path) -> dict[str, Any]:
    rows, pieces, places = 0, 0, 0
    with (
        (folder / ROWS).open("wb") as rows_file,
        (folder / PIECES).open("wb") as pieces_file,
        progress.bar(f"Packing {stream.starts.path.parent}", stream.documents) as show,
    ):
        rows_file.write(np.zeros(1, "<i8").tobytes())
        for first, start_D, size_D in stream.windows():
            piece_P2, count_R = fitted(start_D, size_D, length, fit)
            rows_file.write((pieces + np.cumsum(count_R)).astype("<i8").tobytes())
            pieces_file.write(piece_P2.astype("<i8").tobytes())
            rows, pieces = rows + len(count_R), pieces + len(piece_P2)
            places += int((piece_P2[:, 1] - piece_P2[:, 0] - 1).sum())
            show(first + len(size_D))
    return {"rows": rows, "pieces": pieces, "places": places}
