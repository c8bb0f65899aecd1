"""Strings <-> ids, from a sentencepiece `.model` or a Hugging Face `tokenizer.json`.

Special tokens are ids and never text: `encode` reads "<s>" as three ordinary characters, and puts
the ids of BOS and EOS only where it is asked to. A text that a user typed can therefore not end a
document or open a turn.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_pb2

from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.text import added_tokens

# The largest public tokenizers have about 20 MB. More is some other file, and parsing it would
# take ten times its size in memory.
LARGEST_FILE = 256 << 20

_Pieces: Any = sentencepiece_pb2.__dict__["SentencePieceText"]
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer(Protocol):
    """What the rest of the package may ask of a tokenizer."""

    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int | None
    special: Mapping[str, int]  # Ids that are no text, by name: BOS, EOS, those that were added.
    pieces: Mapping[str, int]  # The ids of all pieces, special ones too, by name.
    sha256: str  # Of everything that decides which ids a text gets.

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Returns [bos] + ids + [eos]; decode(encode(text)) is text, unless it holds U+2581."""

    def encode_all(
        self, texts: Sequence[str], bos: bool = False, eos: bool = False
    ) -> list[list[int]]:
        """Returns `encode` of each text, on all cores."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """Returns `encode` of the text, and the characters [start, stop) of each id as [ids, 2].

        Every id has one character at least: each byte of a character has that character, and a
        space that the tokenizer puts before the text has the first.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; control ids, and ids beyond the vocabulary, are no text."""

    def is_control(self, id: int) -> bool:
        """True for ids that are no text: BOS, EOS, padding, added special tokens, unknown ids."""

    def is_byte(self, id: int) -> bool:
        """True for pieces that stand for one byte, perhaps a part of a character."""

    def files(self) -> list[Path]:
        """Returns the files that `load_tokenizer` needs, to be copied beside a checkpoint."""


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Returns the tokenizer in a `.model` or `.json` file, or in a folder that holds one.

    A folder with both gives `tokenizer.json`: tokens added after pretraining (ChatML, padding)
    stand there and not in the sentencepiece model.

    Raises:
        ValueError: There is no such file.
        DataError: The file is not a tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        names = [name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        if not names:
            raise ValueError(f"{path} holds no tokenizer.json and no tokenizer.model.")
        path = path / names[0]
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it must be a tokenizer file or a folder of one.")
    if path.stat().st_size > LARGEST_FILE:
        raise DataError(f"{path} has {path.stat().st_size} bytes; no tokenizer is that large.")
    return JsonTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def copy_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Copies a tokenizer's files into `folder` under the names by which it is found there."""
    main, *beside = tokenizer.files()
    targets = {folder / f"tokenizer{main.suffix}": main} | {folder / p.name: p for p in beside}
    for target, source in targets.items():
        if source.resolve() != target.resolve():
            files.write_bytes(target, source.read_bytes())


def check_vocabulary(tokenizer: Tokenizer, vocab: int, added: int = 0) -> None:
    """Checks that every id of the tokenizer, and `added` more, has a row in a model's embedding.

    Raises:
        ValueError: The vocabulary of the model is smaller.
    """
    needed = tokenizer.vocab_size + added
    if needed > vocab:
        more = f" and data.denoise adds {added} ids" if added else ""
        rows = added_tokens.padded(needed)
        padded = "" if rows == needed else f" (or {rows}, a multiple of {added_tokens.MULTIPLE})"
        raise ValueError(
            f"the tokenizer {tokenizer.files()[0]} has {tokenizer.vocab_size} pieces{more} but "
            f"config.model.vocab is {vocab}. Set config.model.vocab={needed}{padded}, or "
            "use the tokenizer that the model was trained with."
        )


class SentencePieceTokenizer:
    """A sentencepiece model, as Llama 2 ships it, with the added tokens that stand beside it."""

    def __init__(self, path: Path):
        data = path.read_bytes()
        self._path = path
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.load_from_serialized_proto(data)
        except (RuntimeError, OSError, ValueError) as error:
            raise DataError(f"{path} is not a sentencepiece model: {error}") from None
        self._size: int = self._model.vocab_size()
        self._added_path = path.parent / added_tokens.FILE
        pieces = {self._model.id_to_piece(id): id for id in range(self._size)}
        added = added_tokens.read(self._added_path, pieces, self._size)
        control = {piece: id for piece, id in pieces.items() if self._model.is_control(id)}
        self.special: Mapping[str, int] = control | added
        self.pieces: Mapping[str, int] = pieces | added
        self.vocab_size: int = max([self._size, *(id + 1 for id in added.values())])
        self.bos_id: int = _required(self._model.bos_id(), "beginning-of-sequence", path)
        self.eos_id: int = _required(self._model.eos_id(), "end-of-sequence", path)
        self.pad_id: int | None = self._model.pad_id() if self._model.pad_id() >= 0 else None
        more = json.dumps(added, sort_keys=True).encode() if added else b""
        self.sha256 = hashlib.sha256(data + more).hexdigest()

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Returns [bos] + ids + [eos]."""
        _refuse_surrogates(text)
        return _framed(self, self._model.encode(text), bos, eos)

    def encode_all(
        self, texts: Sequence[str], bos: bool = False, eos: bool = False
    ) -> list[list[int]]:
        """Returns `encode` of each text, on all cores."""
        for text in texts:
            _refuse_surrogates(text)
        rows = self._model.encode(list(texts), num_threads=os.cpu_count() or 1)
        return [_framed(self, ids, bos, eos) for ids in rows]

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """Returns ids and the characters of each."""
        _refuse_surrogates(text)
        pieces = _Pieces.FromString(self._model.encode_as_serialized_proto(text)).pieces
        # The library counts bytes, and gives all of a character to the last of its byte pieces.
        data = np.frombuffer(text.encode(), np.uint8)
        character = np.cumsum(np.append((data & 0xC0) != 0x80, True)) - 1
        spans = np.array([(piece.begin, piece.end) for piece in pieces], np.int64).reshape(-1, 2)
        start, stop = character[spans.T]
        return [piece.id for piece in pieces], np.stack([start, np.maximum(stop, start + 1)], 1)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids that are text."""
        return self._model.decode([int(id) for id in ids if not self.is_control(id)])

    def is_control(self, id: int) -> bool:
        """True for ids that are no text."""
        return not 0 <= id < self._size or self._model.is_control(int(id))

    def is_byte(self, id: int) -> bool:
        """True for pieces that stand for one byte."""
        return 0 <= id < self._size and self._model.is_byte(int(id))

    def files(self) -> list[Path]:
        """Returns the model file, and the one of added tokens."""
        return [self._path, *([self._added_path] if self._added_path.is_file() else [])]


class JsonTokenizer:
    """A Hugging Face `tokenizer.json`, with what stands beside it in `tokenizer_config.json`."""

    def __init__(self, path: Path):
        self._path, self._config_path = path, path.parent / "tokenizer_config.json"
        self._model = _read_tokenizer_json(path)
        self._model.encode_special_tokens = True  # "<s>" in a text is text.
        # It puts special tokens, which `_framed` does, and takes spaces from the offsets.
        self._model.post_processor = None
        self._model.no_truncation()
        self._model.no_padding()
        more = self._add_from(path.parent / added_tokens.FILE)
        added = self._model.get_added_tokens_decoder()
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self.special: Mapping[str, int] = {t.content: id for id, t in added.items() if t.special}
        self._control = set(self.special.values())
        self._byte = {id for piece, id in vocabulary.items() if _BYTE_PIECE.fullmatch(piece)}
        self.pieces: Mapping[str, int] = vocabulary
        self._known = set(vocabulary.values())
        self.vocab_size = max(vocabulary.values()) + 1
        special = self._special_tokens()
        self.bos_id = _required(vocabulary.get(special["bos"], -1), "beginning-of-sequence", path)
        self.eos_id = _required(vocabulary.get(special["eos"], -1), "end-of-sequence", path)
        self.pad_id = vocabulary.get(special["pad"])
        ids = json.dumps([self.bos_id, self.eos_id, self.pad_id, *more]).encode()
        self.sha256 = hashlib.sha256(path.read_bytes() + ids).hexdigest()

    def _add_from(self, path: Path) -> list[str]:
        """Adds the special tokens that only stand in added_tokens.json; returns their names."""
        known = self._model.get_vocab(with_added_tokens=True)
        more = added_tokens.read(path, known, max(known.values()) + 1)
        for name, id in sorted(more.items(), key=lambda entry: entry[1]):
            special = tokenizers.AddedToken(name, normalized=False, special=True)
            self._model.add_special_tokens([special])
            if (given := self._model.token_to_id(name)) != id:
                raise DataError(
                    f"{path}: {name!r} has the id {id}; {given} is the next unused one."
                )
        return sorted(more, key=lambda name: more[name])

    def _special_tokens(self) -> dict[str, str]:
        """Returns bos, eos and pad as texts: Llama 2's, or what tokenizer_config.json says."""
        special = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
        if not self._config_path.is_file():
            return special
        config = files.read_json(self._config_path)
        if not isinstance(config, dict):
            raise DataError(f"{self._config_path} must hold a JSON object.")
        for name in special:
            token = config.get(f"{name}_token")
            if isinstance(token, dict):  # An AddedToken with its options.
                token = token.get("content")
            if token is not None and not isinstance(token, str):
                raise DataError(f"{self._config_path}: {name}_token is {token!r}, not a text.")
            special[name] = token if token is not None else special[name]
        return special

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Returns [bos] + ids + [eos]."""
        _refuse_surrogates(text)
        return _framed(self, self._model.encode(text, add_special_tokens=False).ids, bos, eos)

    def encode_all(
        self, texts: Sequence[str], bos: bool = False, eos: bool = False
    ) -> list[list[int]]:
        """Returns `encode` of each text, on all cores."""
        for text in texts:
            _refuse_surrogates(text)
        rows = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [_framed(self, row.ids, bos, eos) for row in rows]

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """Returns ids and the characters of each."""
        _refuse_surrogates(text)
        encoding = self._model.encode(text, add_special_tokens=False)
        start, stop = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
        return encoding.ids, np.stack([start, np.maximum(stop, start + 1)], 1)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids that are text."""
        kept = [int(id) for id in ids if not self.is_control(id)]
        return self._model.decode(kept, skip_special_tokens=False)

    def is_control(self, id: int) -> bool:
        """True for ids that are no text."""
        return id in self._control or id not in self._known

    def is_byte(self, id: int) -> bool:
        """True for pieces that stand for one byte."""
        return id in self._byte

    def files(self) -> list[Path]:
        """Returns tokenizer.json, and what stands beside it about special tokens."""
        names = (
            "tokenizer_config.json",
            "special_tokens_map.json",
            added_tokens.FILE,
            "chat_template.jinja",
        )
        beside = [self._path.parent / name for name in names]
        return [self._path, *(path for path in beside if path.is_file())]


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    if not isinstance(value := files.read_json(path), dict) or "model" not in value:
        raise DataError(f"{path} is JSON but not a tokenizer: it has no 'model'.")
    try:
        model = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # The library raises no narrower class than this.
        raise DataError(f"{path} is not a tokenizer: {error}") from None
    if not model.get_vocab_size():
        raise DataError(f"{path} has an empty vocabulary.")
    return model


def _required(id: int, name: str, path: Path) -> int:
    if id < 0:
        raise DataError(f"{path} has no {name} token; a Llama tokenizer has <s> and </s>.")
    return id


def _framed(tokenizer: Any, ids: list[int], bos: bool, eos: bool) -> list[int]:
    return [tokenizer.bos_id] * bos + ids + [tokenizer.eos_id] * eos


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds half a character (U+{ord(text[error.start]):04X}) at position "
            f"{error.start}; UTF-8 cannot hold it."
        ) from None
