"""The shapes of records that can be read, by name, and how a record becomes documents."""

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llama_jax.config.data import SourceConfig
from llama_jax.data.recipes import booksum, multi_document_qa
from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.records import (
    completion,
    conversation,
    natural_instructions,
    open_assistant,
    p3,
    plain,
    template,
)

# A record -> its documents, without names. Every wrong shape raises Unreadable, before the first.
Parser = Callable[[Mapping[str, Any]], Iterable[Document]]

# Another shape is a function of this form and a line here.
PARSERS: dict[str, Parser] = {
    "prompt_completion": completion.parse,
    "multi_document_qa": completion.parse_multi_document_qa,
    "natural_instructions": natural_instructions.parse,
    "p3": p3.parse,
    "sharegpt": conversation.parse_sharegpt,
    "orca_chat": conversation.parse_orca_chat,
    "messages": conversation.parse_messages,
    "open_assistant": open_assistant.parse,
    "instruction": conversation.parse_instruction,
}
# These read a setting of the source besides the record.
CONFIGURED: dict[str, Callable[[SourceConfig], Parser]] = {
    "text": lambda source: partial(plain.parse, source.field),
    "template": lambda source: template.parser(source.template, source.learn),
    "booksum": lambda source: partial(booksum.parse, _folder(source)),
    "lost_in_the_middle": lambda source: partial(multi_document_qa.parse, source.questions),
}


def parser(source: SourceConfig) -> Parser:
    """Returns what reads a source's records.

    Raises:
        ValueError: Its `record` is not in the table, or its template cannot be read.
    """
    if source.record in PARSERS:
        return PARSERS[source.record]
    if source.record in CONFIGURED:
        return CONFIGURED[source.record](source)
    names = [*CONFIGURED, *PARSERS]
    close = difflib.get_close_matches(source.record, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"record is {source.record!r}; it must be one of {', '.join(map(repr, names))}.{hint}"
    )


def has_answers(source: SourceConfig) -> bool:
    """Returns whether the source's documents may say that only a part of them is learned."""
    return source.record != "text" and (source.record != "template" or bool(source.learn))


def read(parse: Parser, record: Any, name: str) -> Iterator[Document]:
    """Yields a record's documents: `name`, or `name#0`, `name#1`, ... where there are several.

    A record without any is one without a character, so that it is counted.

    Raises:
        Unreadable: The record has not the shape; then it gives nothing.
    """
    if not isinstance(record, Mapping):
        raise Unreadable("not an object", f"the record is a {type(record).__name__}")
    documents = iter(parse(record))
    first = list(itertools.islice(documents, 2))
    if len(first) < 2:
        yield from (dataclasses.replace(d, name=name) for d in first or [Document(name, "")])
        return
    for k, document in enumerate(itertools.chain(first, documents)):
        yield dataclasses.replace(document, name=f"{name}#{k}")


def _folder(source: SourceConfig) -> Path:
    path = Path(source.path)
    return path if path.is_dir() else path.parent
