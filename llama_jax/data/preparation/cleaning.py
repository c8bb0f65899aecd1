"""What the documents of a source go through before they become tokens, one at a time."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from llama_jax.config.cleaning import FilterConfig
from llama_jax.config.prepare import PrepareSourceConfig
from llama_jax.core.errors import DataError
from llama_jax.data.preparation import filters, latex
from llama_jax.data.sources.document import Document


def clean(
    documents: Iterable[Document], config: PrepareSourceConfig, dropped: Counter
) -> Iterator[Document]:
    """Yields documents as text that the filters keep; `dropped` counts the others by reason.

    Words are counted last, because c4_quality removes lines.
    """
    if config.latex:
        documents = _without_latex(documents, dropped)
    if config.filters.rules or config.filters.language_model:
        documents = _judged_by_datatrove(documents, config.filters, dropped)
    for document in documents:
        reason = filters.reason_to_drop(config.filters, document.name, document.text, document.meta)
        if reason:
            dropped[reason] += 1
        else:
            yield document


def _without_latex(documents: Iterable[Document], dropped: Counter) -> Iterator[Document]:
    for document in documents:
        text = latex.clean(document.text, filters.find(document.meta, "abstract", str) or "")
        if text:
            yield with_text(document, text)
        else:
            dropped["nothing left of the LaTeX"] += 1


def _judged_by_datatrove(
    documents: Iterable[Document], config: FilterConfig, dropped: Counter
) -> Iterator[Document]:
    """Yields what datatrove's rules keep; they see one document at a time."""
    from datatrove.data import Document as Given

    from llama_jax.data.preparation import steps

    rules = steps.document_filters(config)
    for document in documents:
        given = Given(text=document.text, id=document.name)
        reason = next((why for rule in rules if (why := _reason(rule, given))), None)
        if reason:
            dropped[reason] += 1
        else:
            yield with_text(document, given.text)


def _reason(rule: Any, given: Any) -> str | None:
    said = rule.filter(given)
    kept, reason = said if isinstance(said, tuple) else (said, rule.name)
    return None if kept else reason


def with_text(document: Document, text: str) -> Document:
    """Returns the document with another text.

    Raises:
        DataError: It has answers, which stand at characters of its own text.
    """
    if text != document.text and document.answers is not None:
        raise DataError(
            f"{document.name} says which characters are answers, and cleaning would move them. "
            "Leave out what changes the text of this source."
        )
    return dataclasses.replace(document, text=text)
