"""A record that is a prompt and what follows it; what follows is learned."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields
from llama_jax.data.sources.records.task import UNSAID, Asked, Example

_USED = ("text", "prompt", "completion")
_GOLD = re.compile(r"^Gold Document ID: *([0-9]{1,9})\s*\Z", re.MULTILINE)


def parse(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields prompt + completion; `text` may say the same once more."""
    prompt, completion = halves = _halves(record)
    pieces, example = [Piece(prompt), Piece(completion, True)], Asked(UNSAID, Example(*halves))
    yield join(pieces, fields.rest(record, _USED), example=example)


def parse_multi_document_qa(record: Mapping[str, Any]) -> Iterator[Document]:
    r"""Yields prompt + completion, learned from "Answer:" on; meta has the gold document.

    Write a high-quality answer ...              prompt
    <empty line>
    Document [1](Title: T) text                  numbered from 1
    Document [2](Title: U) text
    <empty line>
    Question: q
    Answer: a                                    completion
    Long Answer: la
    Gold Document ID: 2
    """
    prompt, completion = _halves(record)
    start = len(completion) - len(completion.lstrip())
    if not completion.startswith("Answer:", start):
        raise Unreadable("no answer", "the completion does not begin with 'Answer:'")
    gold = _gold(prompt, completion)
    pieces = [Piece(prompt + completion[:start]), Piece(completion[start:], True)]
    yield join(pieces, fields.rest(record, _USED) | gold)


def _halves(record: Mapping[str, Any]) -> tuple[str, str]:
    prompt, completion = fields.text(record, "prompt"), fields.text(record, "completion")
    if "text" in record and fields.text(record, "text") != prompt + completion:
        raise Unreadable("parts disagree", "'text' is not 'prompt' followed by 'completion'")
    return prompt, completion


def _gold(prompt: str, completion: str) -> dict[str, Any]:
    """Returns number and title of the document that holds the answer."""
    if not (found := _GOLD.search(completion)):
        raise Unreadable("no gold document", "the completion does not end with 'Gold Document ID:'")
    number = int(found[1])
    head = f"\nDocument [{number}](Title: "
    if (start := prompt.find(head)) < 0:
        raise Unreadable("no gold document", f"the prompt has no document {number}")
    line, _, _ = prompt[start + len(head) :].partition("\n")
    return {"gold_document": number, "gold_title": _title(line)}


def _title(line: str) -> str:
    """Returns what stands before the parenthesis that closes "(Title: "."""
    depth = 1
    for i, character in enumerate(line):
        depth += (character == "(") - (character == ")")
        if not depth:
            return line[:i]
    return line.partition(") ")[0]  # A title with an open parenthesis of its own.
