"""Documents of a source, in order, and an account of what is left out and why.

The order is that of the names of files, and in a file that of its records. A document that cannot
be read stops everything with its place, or is left out and counted: `TextConfig.on_error`. A
document without a single character is left out and counted either way.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.core.errors import DataError
from llama_jax.data.sources import files
from llama_jax.data.sources.document import Document, Record, Unreadable
from llama_jax.data.sources.formats import FORMATS, Format, tell
from llama_jax.data.sources.left_out import LeftOut
from llama_jax.data.sources.quarantine import Quarantine
from llama_jax.data.sources.records import table


class Reader:
    """Iterates over the documents of a source; `dropped` counts what was left out, by reason."""

    def __init__(self, source: SourceConfig, text: TextConfig, only: Sequence[Path] | None = None):
        """Reads all files of the source, or `only` these; then none of them need hold anything."""
        self.source, self._is_part = source, only is not None
        self.files = list(only) if only is not None else files.list_files(source)
        self._parse = table.parser(source)
        self.bytes = sum(path.stat().st_size for path in self.files)
        self.bytes_read = 0  # As they lie on the disk: for progress bars.
        self._text, self.found = text, 0  # Documents, with or without characters.
        self.left_out = self._nothing()

    @property
    def dropped(self) -> Counter[str]:
        """How many documents were left out, by reason."""
        return self.left_out.counts

    @property
    def quarantine(self) -> Quarantine:
        """Those that were unreadable, if on_error is "quarantine"."""
        return self.left_out.quarantine

    def leave_out(self, document: Document, problem: Unreadable) -> None:
        """Leaves out a document that was read, and then could not be used.

        Raises:
            DataError: None may be left out, or not so many.
        """
        self.found -= 1
        self.left_out.document(problem, Path(document.name), {}, document.text, self.found)

    def _nothing(self) -> LeftOut:
        return LeftOut(self.source.path, self._text, whole=not self._is_part)

    def __iter__(self) -> Iterator[Document]:
        """Yields documents in the order of file names and records.

        Raises:
            DataError: A document is unreadable and on_error is "stop", too many are, or none is
                readable.
        """
        self.left_out = self._nothing()
        self.bytes_read = self.found = 0
        before = 0  # Bytes of the files before this one.
        for path in self.files:
            for document in self._documents(path, before):
                self.found += 1
                if document.text or (document.ids is not None and document.ids.size):
                    yield document
                else:
                    self.dropped["empty"] += 1
            before = self.bytes_read = before + path.stat().st_size
        if self._is_part:
            return
        if self.found <= self.dropped["empty"]:
            raise DataError(
                f"{self.source.path} holds no documents ({len(self.files)} files, left out: "
                f"{dict(self.dropped) or 'nothing'})."
            )
        self.left_out.judge(self.found)

    def _documents(self, path: Path, before: int) -> Iterator[Document]:
        format = tell(path) if self.source.format == "auto" else FORMATS[self.source.format]
        name, place = files.name_in(self.source, path), {}
        try:
            for record in format.read(path, self.source):
                place = {format.unit: record.number} if record.number else {}
                self.bytes_read = before + record.read
                try:
                    yield from _understood(record, format, name, self._parse)
                except Unreadable as problem:
                    value = record.value
                    self.left_out.document(problem, path, place, value, self.found)
        except Unreadable as problem:
            self.left_out.rest_of_file(problem, path, place, self.bytes)


def _understood(
    record: Record, format: Format, file: str, parse: table.Parser
) -> Iterator[Document]:
    """Yields the documents of a record.

    Raises:
        Unreadable: It holds none.
    """
    if isinstance(record.value, Unreadable):
        raise record.value
    value = format.parse(record.value)
    name = f"{file}:{record.number}" if record.number else file
    if isinstance(value, np.ndarray):
        yield Document(name, "", ids=value)
    elif isinstance(value, str):
        yield Document(name, value)
    else:
        yield from table.read(parse, value, name)
