"""Documents -> a prepared folder (its layout is drawn in tokens.py)."""

import array
import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from llama_jax.config.data import TextConfig
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.data import answers
from llama_jax.data.sources.document import Document
from llama_jax.data.tokens import (
    FORMAT,
    MANIFEST,
    OFFSETS,
    FileEntry,
    Manifest,
    shard_name,
)
from llama_jax.text.tokenizer import Tokenizer

# A shard is closed after the document that passes this size: a few hundred open files for a
# trillion tokens, and a lost shard is copied again in a minute.
SHARD_BYTES = 4 << 30
# Texts that are tokenised together, shared out over the cores. Never changes the result.
BATCH_BYTES = 4 << 20


Ids = Sequence[int] | np.ndarray


class TokenWriter:
    """Writes one prepared folder into an empty directory, document by document."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        text: TextConfig,
        recipe: dict[str, Any],
        weighted: bool = False,
    ):
        """`weighted` stores the weight of predicting each token, too."""
        self.folder, self._tokenizer, self._text, self._recipe = folder, tokenizer, text, recipe
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._offsets = array.array("q", [0])
        self.text_bytes = 0
        folder.mkdir(exist_ok=True)
        self._tokens = _Parts(folder, "tokens")
        self._weights = _Parts(folder, "weights") if weighted else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for parts in self._parts():
            parts.close()

    def add(self, document: Document, ids: Ids, weights: Ids | None = None) -> None:
        """Appends one document; `weights` (0 to 255) of its tokens are 1 if none are given."""
        self.text_bytes += len(document.text.encode())
        self.add_ids(ids, weights)

    def add_ids(self, ids: Ids, weights: Ids | None = None) -> None:
        """Appends one document whose text is not counted."""
        if self._tokens.size >= SHARD_BYTES:
            for parts in self._parts():
                parts.cut()
        self._tokens.write(np.asarray(ids, self._dtype).tobytes())
        if self._weights is not None:
            weights = [1] * len(ids) if weights is None else weights
            assert len(weights) == len(ids), (len(weights), len(ids))
            self._weights.write(np.asarray(weights, np.uint8).tobytes())
        else:
            assert weights is None, "the writer was opened without weighted=True"
        self._offsets.append(self._offsets[-1] + len(ids))

    def finish(
        self, dropped: Mapping[str, int], reshaped: Mapping[str, int] | None = None
    ) -> Manifest:
        """Closes the files and writes the manifest, last."""
        tokens = self._tokens.finish()
        weights = () if self._weights is None else self._weights.finish()
        manifest = self._manifest(dropped, self._write_offsets(), tokens, weights)
        manifest = dataclasses.replace(manifest, reshaped=dict(sorted((reshaped or {}).items())))
        files.write_json(self.folder / MANIFEST, dataclasses.asdict(manifest))
        return manifest

    def _parts(self) -> list["_Parts"]:
        return [self._tokens] if self._weights is None else [self._tokens, self._weights]

    def _manifest(
        self,
        dropped: Mapping[str, int],
        offsets: FileEntry,
        shards: tuple[FileEntry, ...],
        weights: tuple[FileEntry, ...],
    ) -> Manifest:
        return Manifest(
            format=FORMAT,
            dtype=self._dtype.name,
            vocab=self._tokenizer.vocab_size,
            tokenizer_sha256=self._tokenizer.sha256,
            add_bos=self._text.add_bos,
            add_eos=self._text.add_eos,
            documents=len(self._offsets) - 1,
            tokens=self._offsets[-1],
            text_bytes=self.text_bytes,
            dropped=dict(sorted(dropped.items())),
            offsets=offsets,
            shards=shards,
            weights=weights,
            recipe=self._recipe,
            code_version=code_version(),
            before=self._text.before,
        )

    def _write_offsets(self) -> FileEntry:
        path = self.folder / OFFSETS
        np.save(path, np.asarray(self._offsets, np.int64))
        return FileEntry(file=OFFSETS, bytes=path.stat().st_size, sha256=files.sha256(path))


class _Parts:
    """One kind of numbers in files, whose count is known at the end: it is a part of the names."""

    def __init__(self, folder: Path, kind: str):
        self._folder, self._kind = folder, kind
        self._finished: list[tuple[int, str]] = []  # Bytes and SHA-256.
        self._open()

    @property
    def size(self) -> int:
        """Bytes of the file that is written now."""
        return self._file.tell()

    def write(self, data: bytes) -> None:
        """Appends to the file that is written now."""
        self._file.write(data)
        self._hash.update(data)

    def cut(self) -> None:
        """Begins another file."""
        self._finish_one()
        self._open()

    def finish(self) -> tuple[FileEntry, ...]:
        """Closes the last file and gives all of them their names."""
        self._finish_one()
        entries = []
        for i, (size, digest) in enumerate(self._finished):
            name = shard_name(i, len(self._finished), self._kind)
            self._building(i).rename(self._folder / name)
            entries.append(FileEntry(file=name, bytes=size, sha256=digest))
        return tuple(entries)

    def close(self) -> None:
        """Closes the file that is written now."""
        self._file.close()

    def _building(self, index: int) -> Path:
        return self._folder / f"{index}.{self._kind}.building"

    def _open(self) -> None:
        self._file = self._building(len(self._finished)).open("wb")
        self._hash = hashlib.sha256()

    def _finish_one(self) -> None:
        self._finished.append((self.size, self._hash.hexdigest()))
        self.close()


def tokenise(
    documents: Iterable[Document], tokenizer: Tokenizer, text: TextConfig
) -> Iterator[tuple[Document, list[int], np.ndarray | None]]:
    """Yields every document with its ids, in order; batches of them use all cores.

    With answers come weights: per id 1 if it is learned, else 0.

    Raises:
        DataError: A source of tokens holds an id that the tokenizer does not have.
    """
    for batch in _batches(documents):
        texts = [text.before + doc.text for doc in batch if doc.ids is None and doc.answers is None]
        encoded = iter(tokenizer.encode_all(texts, text.add_bos, text.add_eos))
        for document in batch:
            if document.ids is not None:
                yield document, _framed(document, tokenizer, text), None
            elif document.answers is not None:
                yield document, *_with_answers(document, tokenizer, text)
            else:
                yield document, next(encoded), None


def _with_answers(
    document: Document, tokenizer: Tokenizer, text: TextConfig
) -> tuple[list[int], np.ndarray]:
    """Returns a document's ids, and per id 1 if it is a part of an answer, else 0."""
    assert document.answers is not None
    more = len(text.before)
    moved = tuple((start + more, stop + more) for start, stop in document.answers)
    whole = dataclasses.replace(document, text=text.before + document.text, answers=moved)
    return answers.encode(whole, tokenizer, text.add_bos, text.add_eos)


def _framed(document: Document, tokenizer: Tokenizer, text: TextConfig) -> list[int]:
    """Returns a document's given ids; BOS and EOS at their ends are as in documents of text."""
    assert document.ids is not None
    largest, smallest = int(document.ids.max()), int(document.ids.min())
    if largest >= tokenizer.vocab_size or smallest < 0:
        raise DataError(
            f"{document.name} holds the id {largest if smallest >= 0 else smallest}; the tokenizer "
            f"{tokenizer.files()[0]} has {tokenizer.vocab_size} pieces. Use the tokenizer that the "
            "file was made with."
        )
    ids = document.ids.tolist()
    ids = ids[1:] if ids[0] == tokenizer.bos_id else ids
    ids = ids[:-1] if ids and ids[-1] == tokenizer.eos_id else ids
    return [tokenizer.bos_id] * text.add_bos + ids + [tokenizer.eos_id] * text.add_eos


def code_version() -> str:
    """Returns the version of this package, or "not installed" when run from a bare checkout."""
    try:
        return importlib.metadata.version("llama-jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text) if document.ids is None else document.ids.nbytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
