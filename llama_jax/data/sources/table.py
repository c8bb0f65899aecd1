"""What Parquet and Arrow files share: pyarrow, its errors, and rows out of a batch of columns."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from llama_jax.data.sources.document import Record, Unreadable

# Rows that become Python values together; each may be a whole book.
BATCH_ROWS = 64


def pyarrow(module: str) -> Any:
    """Returns a module of pyarrow.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError:
        raise ValueError(
            "Parquet and Arrow files need pyarrow, which is not installed. "
            "Type: pip install 'llama-jax[data]'"
        ) from None


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """Turns what pyarrow raises on bytes that are not what they must be into Unreadable."""
    lib = pyarrow("lib")
    try:
        yield
    except (lib.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:  # The disk, not the content.
            raise
        raise Unreadable("damaged file", " ".join(str(error).split())) from None


def chosen(columns: tuple[str, ...], known: list[str]) -> list[str]:
    """Returns the columns to read: those that are named, or all.

    Raises:
        Unreadable: One does not exist.
    """
    for name in columns:
        if name not in known:
            raise Unreadable("no field", f"there is no column {name!r}, only {', '.join(known)}")
    return list(columns) or known


def rows(batches: Iterator[tuple[Any, int]]) -> Iterator[Record]:
    """Yields the rows of record batches, with what was read of the file, as dictionaries."""
    number = 0
    for batch, read in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for value in _values(batch.slice(start, BATCH_ROWS)):
                number += 1
                yield Record(number, value, read)


def _values(batch: Any) -> list[Any]:
    try:
        return batch.to_pylist()
    except ValueError:  # One of the rows; which one is told by taking them alone.
        return [_value(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _value(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as error:
        wrong = f"byte {error.object[error.start]:#04x} at {error.start}"
        return Unreadable("not UTF-8", wrong)
    except ValueError as error:
        return Unreadable("no Python value", str(error))
