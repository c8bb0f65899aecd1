"""Finished conversations -> {"text": "[INST] ... [/INST] ..."}, one line each.

All of the database are written, in the order of their ids, which are hashes: the bytes depend on
what was answered, not on when, and neighbours have nothing to do with each other.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from llama_jax.core import files
from llama_jax.distillation import old_database, pager, prompts
from llama_jax.distillation.cache import Cache

CACHE = "answers.sqlite"
OUTPUT = "instructions.jsonl"


@dataclasses.dataclass(frozen=True)
class Dumped:
    """What was written, and how many rows were none."""

    path: Path
    lines: int
    wrong: int


def write(cache: Cache, folder: Path) -> Dumped:
    """Writes folder/instructions.jsonl, all of it or nothing."""
    return _write(cache.conversations(), folder / OUTPUT)


def write_old(path: Path) -> Dumped:
    """Writes the conversations of an old database beside it, as NAME.jsonl."""
    rows = ((turns, text) for _, turns, text in old_database.read(path))
    return _write(rows, path.with_name(f"{path.name}.jsonl"))


def _write(conversations: Iterable[tuple[list[str], str]], path: Path) -> Dumped:
    lines = wrong = 0

    def texts() -> Iterable[bytes]:
        nonlocal lines, wrong
        for turns, text in conversations:
            answers = prompts.split(turns, text) if turns else None
            if answers is None:
                wrong += 1
                continue
            example = prompts.line([pager.strip(turn) for turn in turns], answers)
            lines += 1
            yield json.dumps({"text": example}).encode() + b"\n"

    files.write_pieces(path, texts())
    return Dumped(path, lines, wrong)
