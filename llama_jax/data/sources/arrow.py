"""Arrow files, as Hugging Face `datasets` saves them: one record per row, batch by batch.

Read with `read` and not through a memory map: a file that is cut short while it is mapped kills
the process.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_jax.config.data import SourceConfig
from llama_jax.data.sources import table
from llama_jax.data.sources.document import Record, Unreadable

_FILE = b"ARROW1"  # Begins and ends the file format; the stream format has only an end mark.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def read(path: Path, source: SourceConfig) -> Iterator[Record]:
    """Yields the rows of a file as dictionaries of the chosen columns.

    Raises:
        Unreadable: The file is damaged, or lacks a chosen column.
    """
    pyarrow = table.pyarrow("lib")
    is_file = _check_end(path)
    with table.damage(), pyarrow.OSFile(str(path)) as file:
        ipc = table.pyarrow("ipc")
        reader = (ipc.open_file if is_file else ipc.open_stream)(file)
        yield from table.rows((batch, file.tell()) for batch in _batches(reader, source))


def _check_end(path: Path) -> bool:
    """True for the file format; a stream that is cut between two batches reads as a shorter one."""
    with open(path, "rb") as file:
        begin = file.read(len(_FILE))
        file.seek(-min(len(_END_OF_STREAM), file.seek(0, os.SEEK_END)), os.SEEK_END)
        end = file.read()
    if begin != _FILE and end != _END_OF_STREAM:
        raise Unreadable("damaged file", "it lacks the mark at its end; it was cut short")
    return begin == _FILE


def _batches(reader: Any, source: SourceConfig) -> Iterator[Any]:
    names = table.chosen(source.columns, reader.schema.names)
    if hasattr(reader, "num_record_batches"):
        found = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        found = iter(reader)
    for batch in found:
        batch.validate(full=True)
        yield batch.select(names)
