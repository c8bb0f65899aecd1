"""ArrayRecord: one record per entry, a JSON object or a UTF-8 text.

A file that was cut short opens without a word and has no records, so its health is asked for; where
a file NAME.num_records lies beside it, that number must be the count.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from llama_jax.config.data import SourceConfig
from llama_jax.data.sources import json_object
from llama_jax.data.sources.document import Record, Unreadable

_BATCH = 16  # Records that are read together; each may be a whole book.
# Nothing is read ahead, and the index of the records stays in the file.
_OPTIONS = ",".join(
    (
        "readahead_buffer_size:0",
        "max_parallelism:0",
        "index_storage_option:offloaded",
        "footer_prefetch_bytes:0",
    )
)


def read(path: Path, _: SourceConfig) -> Iterator[Record]:
    """Yields the entries of a file as bytes.

    Raises:
        Unreadable: The file is damaged, or has another number of entries than it must.
    """
    size = path.stat().st_size
    for number, (data, share) in enumerate(_entries(path), start=1):
        yield Record(number, data, int(share * size))


def holds_json(path: Path) -> bool:
    """True if the first entry is a JSON object, or cannot be had."""
    try:
        json_object.parse(next(_entries(path), (b"{}", 0.0))[0])
    except Unreadable as problem:
        return problem.reason == "damaged file"
    return True


def _entries(path: Path) -> Iterator[tuple[bytes, float]]:
    """Yields the entries, and which share of them was read."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path), _OPTIONS)
        count = reader.num_records()
        _check_count(reader, count, path)
        for start in range(0, count, _BATCH):
            stop = min(start + _BATCH, count)
            yield from ((data, stop / count) for data in reader.read(start, stop))
        reader.close()
    except (RuntimeError, IndexError, ValueError) as error:
        raise Unreadable("damaged file", str(error)) from None


def _check_count(reader: Any, count: int, path: Path) -> None:
    if not reader.ok():
        raise Unreadable("damaged file", "it does not end as an ArrayRecord; it was cut short")
    beside = path.with_name(f"{path.name}.num_records")
    if beside.is_file() and (wanted := beside.read_text().strip()) != str(count):
        raise Unreadable("damaged file", f"it has {count} records; {beside.name} says {wanted!r}")
