"""Special tokens that were added to a tokenizer later, by name: `added_tokens.json`.

    {"<pad>": 32000, "<|assistant|>": 32001, "<|prompter|>": 32005}

Their ids are whatever they came to be (Open-Assistant's differ from one release to the next), so a
name is always looked up. A sentencepiece model keeps them in this file beside it; a tokenizer.json
holds them itself.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from llama_jax.core import files
from llama_jax.core.errors import DataError

FILE = "added_tokens.json"
MULTIPLE = 16  # To which Open-Assistant padded vocabularies: 32,000 -> 32,016.
# Beyond what any tokenizer adds; every id takes a row of the embedding.
_MOST = 1 << 20


def read(path: Path, known: Mapping[str, int], size: int) -> dict[str, int]:
    """Returns names and ids of the file at `path` that are new; none if there is no file.

    Args:
        path: The file.
        known: Pieces that the tokenizer has without it.
        size: How many ids it has without it.

    Raises:
        DataError: A name or an id is taken, or the file does not hold names and ids.
    """
    if not path.is_file():
        return {}
    value = files.read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object of names and ids.")
    added: dict[str, int] = {}
    taken: dict[int, str] = {}
    for name, id in value.items():
        if known.get(name, -1) == id and type(id) is int:
            continue  # "<s>": 1 stands in many of these files.
        if type(id) is not int or not size <= id < size + _MOST or name in known or not name:
            raise DataError(
                f"{path}: {name!r} has the id {id!r}; a new name must have an unused id, from "
                f"{size} on."
            )
        if id in taken:
            raise DataError(f"{path}: {name!r} and {taken[id]!r} both have the id {id}.")
        added[name], taken[id] = id, name
    return added


def extend(tokenizer_file: Path, known: Mapping[str, int], size: int, names: Sequence[str]) -> None:
    """Gives ids, from `size` on, to those of the names that have none; rewrites the files.

    Args:
        tokenizer_file: tokenizer.model or tokenizer.json.
        known: The special tokens that there are.
        size: How many ids there are.
        names: The special tokens that there shall be.

    Raises:
        ValueError: A name is that of an ordinary piece.
    """
    new = [name for name in dict.fromkeys(names) if name not in known]
    if not new:
        return
    if tokenizer_file.suffix == ".json":
        model = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        if taken := [name for name in new if model.token_to_id(name) is not None]:
            raise ValueError(
                f"added_tokens names {taken[0]!r}, which {tokenizer_file} has as text."
            )
        special = [tokenizers.AddedToken(name, normalized=False, special=True) for name in new]
        model.add_special_tokens(special)
        files.write_bytes(tokenizer_file, model.to_str(pretty=True).encode())
        return
    path = tokenizer_file.parent / FILE
    value = files.read_json(path) if path.is_file() else {}
    value |= {name: size + i for i, name in enumerate(new)}
    files.write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def padded(vocabulary: int, multiple: int = MULTIPLE) -> int:
    """Returns the size of an embedding with so many rows, rounded up to a multiple."""
    return -(-vocabulary // multiple) * multiple
