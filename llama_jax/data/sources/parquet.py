"""Parquet: one record per row, read from one row group after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_jax.config.data import SourceConfig
from llama_jax.data.sources import table
from llama_jax.data.sources.compression import check_ratio
from llama_jax.data.sources.document import Record

_BUFFER = 1 << 20  # Read ahead per column; without it pyarrow holds a whole row group.


def read(path: Path, source: SourceConfig) -> Iterator[Record]:
    """Yields the rows of a file as dictionaries of the chosen columns.

    Raises:
        Unreadable: The file is damaged, or lacks a chosen column.
    """
    parquet = table.pyarrow("parquet")
    with (
        table.damage(),
        parquet.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        ) as file,
    ):
        names = table.chosen(source.columns, file.schema_arrow.names)
        _check_ratio(file.metadata, names)
        yield from table.rows(_batches(file, names))


def _check_ratio(metadata: Any, names: list[str]) -> None:
    """Raises Unreadable if a column says that it grows beyond all measure."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.split(".")[0] in names:
                check_ratio(column.total_uncompressed_size, column.total_compressed_size)


def _batches(file: Any, names: list[str]) -> Iterator[tuple[Any, int]]:
    read = 0
    for group in range(file.num_row_groups):
        found = file.metadata.row_group(group)
        for batch in file.iter_batches(
            table.BATCH_ROWS, row_groups=[group], columns=names, use_threads=False
        ):
            yield batch, read
        read += sum(found.column(i).total_compressed_size for i in range(found.num_columns))
