"""A prepared folder: documents as token ids on disk, opened for random access.

    manifest.json               written last: sizes, hashes, tokenizer, recipe, what was left out
    offsets.npy                 int64 [documents + 1]; document i is tokens offsets[i]:offsets[i+1]
    tokens-00000-of-0000N.bin   little-endian ids, uint16 for up to 65,536 pieces, else uint32
    weights-00000-of-0000N.bin  if there are any: uint8, the weight of predicting each token

All documents, one after the other, are one long array of tokens; shards are where it is cut.
Ranges are read with `pread`, not through a memory map: a file that is cut short while it is mapped
kills the process (SIGBUS), a short read is an error with a name. Nothing is held in memory but the
manifest: where a document begins is looked up in the file.
"""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

import numpy as np

from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.data.numbers import NumberFile, open_npy
from llama_jax.data.shards import Shards
from llama_jax.text.tokenizer import Tokenizer

FORMAT = "llama_jax tokens 1"
MANIFEST, OFFSETS = "manifest.json", "offsets.npy"
KINDS = ("tokens", "weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the folder, as the manifest promises it."""

    file: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says."""

    format: str
    dtype: str
    vocab: int
    tokenizer_sha256: str
    add_bos: bool
    add_eos: bool
    documents: int
    tokens: int
    text_bytes: int  # Of the documents before tokenisation, as UTF-8.
    dropped: dict  # Documents that were left out, by reason.
    offsets: FileEntry
    shards: tuple[FileEntry, ...]
    recipe: dict  # The settings that made it.
    code_version: str
    before: str = ""  # The text that was put before every document.
    reshaped: dict = dataclasses.field(default_factory=dict)  # Documents that were cut or joined.
    weights: tuple[FileEntry, ...] = ()  # One byte for each token: the weight of predicting it.

    @property
    def files(self) -> list[FileEntry]:
        """All other files."""
        return [self.offsets, *self.shards, *self.weights]


def shard_name(index: int, count: int, kind: str = "tokens") -> str:
    """Returns the file name of a shard."""
    return f"{kind}-{index:05d}-of-{count:05d}.bin"


class TokenStore:
    """An opened prepared folder; a `grain.sources.RandomAccessDataSource` of its documents.

    `len(store)` is their number and `store[i]` is {"tokens": int32 [n]}, with "weights": uint8 [n]
    beside them if there are any; `grain.MapDataset.source(store)` begins a pipeline of one's own.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer | None = None):
        """Checks everything that can be checked without reading the tokens.

        Raises:
            DataError: A file is missing, added or of another size than the manifest says, the
                offsets are impossible, or another tokenizer made it.
        """
        self.path = Path(path)
        self.manifest = _read_manifest(self.path / MANIFEST)
        if tokenizer is not None:
            self._check_tokenizer(tokenizer)
        self._check_files()
        self.offsets = self._open_offsets()
        self._tokens = self._open(self.manifest.shards, self.manifest.dtype)
        self._weights = self._open(self.manifest.weights, "uint8")

    def __len__(self) -> int:
        return self.manifest.documents

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """Returns a document; IndexError if there is no such one."""
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"document {number} of {len(self)} in {self.path}")
        number %= len(self)
        start, stop = self.offsets.rising(number, number + 2).tolist()
        found = {"tokens": self.read(start, stop)}
        return found | ({"weights": self.read_weights(start, stop)} if self.has_weights else {})

    @property
    def tokens(self) -> int:
        """The number of tokens in all documents."""
        return self.manifest.tokens

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens and of where documents begin, whatever the folder's place or age."""
        content = [
            self.manifest.dtype,
            self.manifest.tokenizer_sha256,
            *(entry.sha256 for entry in self.manifest.files),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def has_weights(self) -> bool:
        """True if a weight of the loss is stored beside every token."""
        return bool(self.manifest.weights)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns tokens [start, stop) of the whole as int32, as `gather` does."""
        return self.gather(np.array([[start, stop]]))

    def read_weights(self, start: int, stop: int) -> np.ndarray:
        """Returns the weights of tokens [start, stop) as uint8."""
        return self.gather_weights(np.array([[start, stop]]))

    def gather(self, pieces_P2: np.ndarray) -> np.ndarray:
        """Returns the tokens of P ranges [start, stop) of the whole, one after the other, as int32.

        Raises:
            DataError: A file has become shorter, or holds an id beyond the vocabulary.
        """
        tokens = self._tokens.gather(pieces_P2)
        if len(tokens) and tokens.max() >= self.manifest.vocab:
            self._refuse_id(tokens, pieces_P2)
        return tokens.astype(np.int32)

    def gather_weights(self, pieces_P2: np.ndarray) -> np.ndarray:
        """Returns the weights of the tokens that `gather` returns, as uint8."""
        return self._weights.gather(pieces_P2)

    def verify(self, show: Callable[[int], None] = lambda done: None) -> None:
        """Reads every byte and compares it with the manifest.

        Args:
            show: Is told how many bytes were compared, for a progress bar.

        Raises:
            DataError: A file was changed after it was written.
        """
        done = 0
        for entry in self.manifest.files:
            if files.sha256(self.path / entry.file) != entry.sha256:
                raise DataError(
                    f"{self.path / entry.file} was changed after it was written: its SHA-256 is "
                    f"not what {MANIFEST} says. Prepare the folder again."
                )
            done += entry.bytes
            show(done)

    def _open(self, entries: tuple[FileEntry, ...], dtype: str) -> Shards:
        paths = [self.path / entry.file for entry in entries]
        return Shards(paths, [entry.bytes for entry in entries], np.dtype(dtype))

    def _refuse_id(self, tokens: np.ndarray, pieces_P2: np.ndarray) -> NoReturn:
        at = int(np.argmax(tokens >= self.manifest.vocab))
        number = int(np.concatenate([np.arange(*piece) for piece in pieces_P2])[at])
        path, place = self._tokens.place(number)
        raise DataError(
            f"{path} holds the id {tokens[at]} at token {place}; the vocabulary has only "
            f"{self.manifest.vocab} pieces. Prepare the folder again."
        )

    def _check_tokenizer(self, tokenizer: Tokenizer) -> None:
        if tokenizer.sha256 != self.manifest.tokenizer_sha256:
            raise DataError(
                f"{self.path} was made with another tokenizer than {tokenizer.files()[0]} "
                f"(SHA-256 {self.manifest.tokenizer_sha256[:12]}, not {tokenizer.sha256[:12]}). "
                "Use the tokenizer it was prepared with, or prepare it again."
            )

    def _check_files(self) -> None:
        for entry in self.manifest.files:
            path = self.path / entry.file
            if not path.is_file():
                raise DataError(f"{path} is missing, but {MANIFEST} names it.")
            if (size := path.stat().st_size) != entry.bytes:
                raise DataError(f"{path} has {size} bytes; {MANIFEST} says {entry.bytes}.")
        found = {p.name for kind in KINDS for p in self.path.glob(f"{kind}-*")}
        if surplus := found - {entry.file for entry in self.manifest.files}:
            raise DataError(f"{self.path / min(surplus)} is not named in {MANIFEST}.")

    def _open_offsets(self) -> NumberFile:
        # Only the ends are looked at here: a billion offsets are 8 GB. What lies between is checked
        # where it is read, and by `verify`.
        offsets = open_npy(self.path / OFFSETS, self.manifest.documents + 1)
        if offsets[0] != 0 or offsets[-1] != self.tokens:
            raise DataError(
                f"{offsets.path} does not rise from 0 to {self.tokens}, the number of tokens."
            )
        return offsets


def is_store(path: str | Path) -> bool:
    """True for a folder that says it is a prepared one."""
    return (Path(path) / MANIFEST).is_file()


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a prepared folder: it has no {MANIFEST}.")
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DataError(f"{path} is not a manifest of the format {FORMAT!r}.")
    try:
        names = [name for name in ("shards", "weights") if name in value]
        value |= {name: tuple(FileEntry(**entry) for entry in value[name]) for name in names}
        manifest = Manifest(**value | {"offsets": FileEntry(**value["offsets"])})
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lacks a field, or has one too many: {error}.") from None
    _check_types(manifest, path)
    _check_counts(manifest, path)
    return manifest


def _check_types(value: Any, path: Path) -> None:
    for field in dataclasses.fields(value):
        item: Any = getattr(value, field.name)
        kind = tuple if field.name in ("shards", "weights") else field.type
        if type(item) is not kind or (isinstance(item, int) and item < 0):
            raise DataError(f"{path}: {field.name} is {item!r}; it must be a {kind}.")
        if dataclasses.is_dataclass(item):
            _check_types(item, path)
    if isinstance(value, Manifest):
        for entry in (*value.shards, *value.weights):
            _check_types(entry, path)


def _check_counts(manifest: Manifest, path: Path) -> None:
    wanted = "uint16" if manifest.vocab <= 1 << 16 else "uint32"
    if manifest.dtype != wanted:
        raise DataError(
            f"{path}: dtype is {manifest.dtype!r}; {manifest.vocab} pieces need {wanted}."
        )
    _check_names(manifest, path)
    total = sum(shard.bytes for shard in manifest.shards)
    size = np.dtype(wanted).itemsize
    if total != manifest.tokens * size or not manifest.shards:
        raise DataError(f"{path}: {manifest.tokens} tokens do not fill shards of {total} bytes.")
    lengths = [shard.bytes // size for shard in manifest.shards]
    if manifest.weights and [entry.bytes for entry in manifest.weights] != lengths:
        raise DataError(f"{path}: the weights have other lengths than the tokens.")


def _check_names(manifest: Manifest, path: Path) -> None:
    parts = zip(KINDS, (manifest.shards, manifest.weights), strict=True)
    names = [OFFSETS]
    for kind, entries in parts:
        names += [shard_name(i, len(entries), kind) for i in range(len(entries))]
    if [entry.file for entry in manifest.files] != names:
        raise DataError(f"{path} names other files than {', '.join(names[:3])}...")
