"""Finished conversations -> {"text": "[INST] ... [/INST] ..."}, one line each.

All of the database are written, in the order of their ids, which are hashes: the bytes depend on
what was answered, not on when, and neighbours have nothing to do with each other.

Log-probabilities, if any were asked for, go to a file beside it, line by line the same
conversations: {"answers": [{"ids", "logprobs", "top_ids", "top_logprobs"}, ...]}, see logprobs.py.
A conversation that was asked without them has the line {"answers": []}.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llama_jax.core import files
from llama_jax.distillation import old_database, pager, prompts
from llama_jax.distillation.cache import Cache

CACHE = "answers.sqlite"
OUTPUT = "instructions.jsonl"
LOGPROBS = "logprobs.jsonl"

Conversation = tuple[list[str], str, Sequence[str]]  # Turns, text, keys.


@dataclasses.dataclass(frozen=True)
class Dumped:
    """What was written, and how many rows were none."""

    path: Path
    lines: int
    wrong: int
    with_logprobs: int = 0


def write(cache: Cache, folder: Path) -> Dumped:
    """Writes folder/instructions.jsonl, and logprobs.jsonl if there are any; each whole or not."""
    # First, so that it never stands beside other texts than its own.
    (folder / LOGPROBS).unlink(missing_ok=True)
    dumped = _write(cache.conversations(), folder / OUTPUT)
    if dumped.with_logprobs:
        files.write_pieces(folder / LOGPROBS, _logprobs(cache))
    return dumped


def write_old(path: Path) -> Dumped:
    """Writes the conversations of an old database beside it, as NAME.jsonl."""
    rows = ((turns, text, ()) for _, turns, text in old_database.read(path))
    return _write(rows, path.with_name(f"{path.name}.jsonl"))


def _write(conversations: Iterable[Conversation], path: Path) -> Dumped:
    lines = wrong = with_logprobs = 0

    def texts() -> Iterator[bytes]:
        nonlocal lines, wrong, with_logprobs
        for turns, text, keys in conversations:
            answers = _answers(turns, text)
            if answers is None:
                wrong += 1
                continue
            example = prompts.line([pager.strip(turn) for turn in turns], answers)
            lines += 1
            with_logprobs += bool(keys)
            yield json.dumps({"text": example}).encode() + b"\n"

    files.write_pieces(path, texts())
    return Dumped(path, lines, wrong, with_logprobs)


def _logprobs(cache: Cache) -> Iterator[bytes]:
    """Yields a line for each line of texts."""
    for turns, text, keys in cache.conversations():
        if _answers(turns, text) is not None:
            yield f'{{"answers": [{", ".join(cache.logprobs(keys))}]}}\n'.encode()


def _answers(turns: list[str], text: str) -> list[str] | None:
    """Returns the answers of a conversation; None if its text is not what its turns say."""
    return prompts.split(turns, text) if turns else None
