"""Documents -> rows of T tokens. Nothing but the number of a row need be known to read it.

"concat" and "segments" cut rows from the documents as they lie, one after the other. Three
documents and T = 4:

    documents      a0 a1 a2 a3 a4 | b0 b1 | c0 c1 c2 c3

    row 0  token     a0 a1 a2 a3
           target    a1 a2 a3 a4
           segment    1  1  1  1
           position   0  1  2  3
           weight     1  1  1  1

    row 1  token     a4 b0 b1 c0
           target    b0 b1 c0 c1
           segment    1  2  2  3
           position   0  0  1  0
           weight     0  1  0  1

Row k reads tokens [kT, kT + T]: one more than T, because the last token of a row is predicted there
and is read again as the first of the next. Shown is "segments": no attention crosses a document,
positions restart at 0 with each document's piece in the row (a4 has position 0, not 4), and
predicting b0 from a4 has no weight. "concat" is segment 1, positions 0..T-1 and weight 1
throughout.

The stream of documents is a ring, which each epoch of a shuffled source cuts from another token on.
R = (tokens - 1) // T rows have RT tokens, each of which is a target exactly once per epoch; the
rest, at most T tokens, is elsewhere in the next epoch.

"first_fit" and "best_fit" put whole documents into rows, as drawn in bins.py. Rows of a source with
denoised ones are cut from the ring in pieces of other lengths, see denoised_rows.py.

With loss "completion" a weight is, instead of 1, the one that is stored beside its target.
"""

import dataclasses
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from llama_jax.config.data import SourceConfig
from llama_jax.data.batch import Batch, one_segment
from llama_jax.data.bins import Plan, open_plan
from llama_jax.data.selection import select
from llama_jax.data.stream import Stream
from llama_jax.data.tokens import TokenStore


class Rows(Protocol):
    """The rows of one epoch."""

    @property
    def length(self) -> int:
        """T, the places of a row."""

    @property
    def stream(self) -> Stream:
        """The documents."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    @property
    def padding(self) -> float:
        """The share of their places that hold no token."""

    @property
    def taken(self) -> float:
        """How many tokens of the stream a row uses up, on average."""

    def read(self, row: int, turn: int, epoch: int = 0) -> Batch:
        """Returns a row as arrays [T].

        Args:
            row: Its number.
            turn: Where the epoch is cut, if it can be cut elsewhere.
            epoch: What chance in a row depends on, beside the row.
        """


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Ranges of a store as they were read: tokens, and the weight of predicting each."""

    token: np.ndarray
    weight: np.ndarray | None  # None is 1 throughout.
    size_P: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads ranges of a store; with `weighted`, the weights that are stored beside the tokens."""

    store: TokenStore
    weighted: bool

    def __post_init__(self):
        if self.weighted and not self.store.has_weights:
            raise ValueError(
                f"loss is 'completion' but {self.store.path} was prepared without weights of its "
                "tokens. Set loss to 'all', or prepare the folder from conversations."
            )

    def read(self, piece_P2: np.ndarray) -> Pieces:
        """Returns P ranges [start, stop) of the store."""
        weight = self.store.gather_weights(piece_P2) if self.weighted else None
        return Pieces(self.store.gather(piece_P2), weight, piece_P2[:, 1] - piece_P2[:, 0])


@dataclasses.dataclass(frozen=True)
class CutRows:
    """Rows of T tokens cut from a ring of documents, which stay apart with `segments`."""

    reader: Reader
    stream: Stream
    length: int
    segments: bool
    padding: float = 0.0

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(
                f"{self.reader.store.path} has {self.stream.tokens} tokens; one row of "
                f"sequence_length {self.length} needs {self.length + 1}. Use more text or shorter "
                "rows."
            )

    @property
    def count(self) -> int:
        """How many rows there are."""
        return (self.stream.tokens - 1) // self.length

    @property
    def taken(self) -> float:
        """How many tokens of the stream a row uses up: the last is the first of the next row."""
        return self.length

    def read(self, row: int, turn: int, epoch: int = 0) -> Batch:
        """Returns a row as arrays [T]; row 0 begins at token turn % tokens."""
        begin = turn + row * self.length
        pieces = self.around(begin, begin + self.length + 1)
        if self.segments:
            return separated(pieces)
        weight = None if pieces.weight is None else pieces.weight[1:].astype(np.float32)
        return one_segment(pieces.token, weight)

    def around(self, begin: int, end: int) -> Pieces:
        """Returns tokens [begin, end) of the ring, which may begin anywhere."""
        first = begin % self.stream.tokens
        return self.reader.read(self._ranges(first, first + end - begin))

    def _ranges(self, begin: int, end: int) -> np.ndarray:
        """Returns tokens [begin, end) of the ring as ranges [P, 2] of the store."""
        find = self.stream.pieces if self.segments else self.stream.ranges
        over = end - self.stream.tokens
        if over <= 0:
            return find(begin, end)
        return np.concatenate([find(begin, end - over), find(0, over)])


@dataclasses.dataclass(frozen=True)
class FittedRows:
    """Rows of whole documents and padding, as planned."""

    reader: Reader
    stream: Stream
    length: int
    plan: Plan

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(
                f"{self.reader.store.path} has no document of two tokens or more. Use more text."
            )

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.plan.count

    @property
    def padding(self) -> float:
        """The share of their places that hold no token."""
        return 1 - self.plan.places / (self.count * self.length)

    @property
    def taken(self) -> float:
        """How many tokens of the stream a row uses up, on average."""
        return self.plan.places / self.count

    def read(self, row: int, turn: int, epoch: int = 0) -> Batch:
        """Returns a row as arrays [T]; neither `turn` nor `epoch` changes anything."""
        return fitted(self.reader.read(self.plan.row(row)), self.length)


def open_rows(
    store: TokenStore,
    source: SourceConfig,
    length: int,
    packing: Literal["concat", "segments", "first_fit", "best_fit", "alone"],
    cache: Path,
) -> Rows:
    """Returns a source's rows of `length` tokens; plans go beside the store, else into `cache`.

    Raises:
        ValueError: The store has not enough tokens for one row, or no weights where they are asked
            for.
    """
    folders = [store.path, cache]
    stream, reader = select(store, source, folders), Reader(store, source.loss == "completion")
    if packing == "concat" or packing == "segments":
        return CutRows(reader, stream, length, packing == "segments")
    return FittedRows(reader, stream, length, open_plan(stream, length, packing, folders))


def separated(pieces: Pieces) -> Batch:
    """Returns T + 1 tokens as one segment for each piece."""
    stream = pieces.token
    segment, position = _segments(pieces.size_P)
    weight = _weights(pieces, len(stream) - 1, slice(1, None))
    weight *= segment[:-1] == segment[1:]
    return Batch(stream[:-1], stream[1:], position[:-1], segment[:-1], weight)


def fitted(pieces: Pieces, length: int) -> Batch:
    """Returns the pieces without the last token of each, and padding up to `length`."""
    ends = np.cumsum(pieces.size_P)
    is_input, is_target = np.ones((2, len(pieces.token)), bool)
    is_input[ends - 1], is_target[ends - pieces.size_P] = False, False
    segment, position = _segments(pieces.size_P - 1)
    weight = _weights(pieces, len(segment), is_target)
    fields = (pieces.token[is_input], pieces.token[is_target], position, segment, weight)
    return Batch(*(np.pad(field, (0, length - len(field))) for field in fields))


def _weights(pieces: Pieces, count: int, targets: slice | np.ndarray) -> np.ndarray:
    """Returns the stored weights of the targets, f32 [count]."""
    if pieces.weight is None:
        return np.ones(count, np.float32)
    return pieces.weight[targets].astype(np.float32)


def _segments(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of each token's segment, from 1, and its position there, from 0."""
    segment = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
    begins = np.repeat((np.cumsum(sizes) - sizes).astype(np.int32), sizes)
    return segment, np.arange(len(segment), dtype=np.int32) - begins
