"""P3: inputs and targets as texts, with or without their ids; the target is learned."""

from collections.abc import Iterator, Mapping
from typing import Any

from llama_jax.data.sources.document import Document
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields
from llama_jax.data.sources.records.task import UNSAID, Asked, Example

_INPUTS, _TARGETS = ("inputs_pretokenized", "inputs"), ("targets_pretokenized", "targets")


def parse(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields inputs, a line end and target; nothing for a choice that is wrong (`is_correct`)."""
    for asked, target in _examples(record):
        meta = fields.rest(record, (*_INPUTS, *_TARGETS))
        pieces = [Piece(f"{asked}\n"), Piece(target, True)]
        yield join(pieces, meta, example=Asked(UNSAID, Example(asked, target)))


def _examples(record: Mapping[str, Any]) -> Iterator[Example]:
    """Yields the record's example; white space before the target belongs to neither half."""
    example = Example(fields.text(record, *_INPUTS), fields.text(record, *_TARGETS).lstrip())
    if record.get("is_correct") is not False:
        yield example
