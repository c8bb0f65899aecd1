"""What is built of the documents that were kept: dialogues, texts of examples, conversations.

Documents of one file are put together, never those of two: what is written does not depend on which
files are handled together.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from llama_jax.config.building import BuildConfig
from llama_jax.core.errors import DataError
from llama_jax.data.preparation import filters
from llama_jax.data.preparation.cleaning import with_text
from llama_jax.data.preparation.order import split
from llama_jax.data.recipes import fewshot, long_conversations, ul2_text
from llama_jax.data.sources.document import Document

Measure = Callable[[Document], int]


def build(
    documents: Iterable[Document],
    config: BuildConfig,
    tokens: Measure,
    seed: int,
    dropped: Counter[str],
) -> Iterator[Document]:
    """Yields what is built of the documents; `dropped` counts those of which nothing was.

    Args:
        documents: In the order of files.
        config: What to build.
        tokens: How many tokens a document becomes.
        seed: For what is left to chance.
        dropped: Documents, by reason.
    """
    if config.kind == "documents":
        yield from documents
    elif config.kind == "ul2":
        yield from _dialogues(documents, seed, dropped)
    else:
        measure = tokens if config.unit == "tokens" else _characters
        for file, members in itertools.groupby(documents, lambda each: split(each.name)[0]):
            if config.kind == "fewshot":
                yield from _tasks(file, members, config, measure, seed, dropped)
            else:
                yield from _conversations(file, members, config, measure, dropped)


def _dialogues(documents: Iterable[Document], seed: int, dropped: Counter) -> Iterator[Document]:
    for document in documents:
        if document.ids is not None:
            raise DataError(
                f"{document.name} holds ids and no text, so no dialogue can be made of it. Leave "
                "out build.kind of this source."
            )
        text = ul2_text.dialogue(document.text, document.name, seed)
        if text:
            yield with_text(document, text)
        else:
            dropped["too short for UL2"] += 1


def _tasks(
    file: str,
    documents: Iterable[Document],
    config: BuildConfig,
    measure: Measure,
    seed: int,
    dropped: Counter[str],
) -> Iterator[Document]:
    """Yields the texts of every task of a file, in the order in which tasks begin."""
    by_task: dict[str, list[fewshot.Asked]] = {}
    for document in documents:
        by_task.setdefault(_task_name(file, document, config), []).append(document.example)
    form = {"tk_instruct": fewshot.tk_instruct, "dialogue": fewshot.dialogue}[config.form]
    for name, members in by_task.items():
        yield from fewshot.pack(
            fewshot.task_of(name, members),
            form,
            length=config.length,
            measure=lambda text: measure(Document("", text)),
            most=config.examples,
            seed=seed,
            dropped=dropped,
        )


def _task_name(file: str, document: Document, config: BuildConfig) -> str:
    if not config.task_field:
        return file
    name = filters.find(document.meta, config.task_field, str)
    if name is None:
        raise DataError(
            f"{document.name} has no text in {config.task_field!r}, which names its task "
            "(build.task_field). Leave that out if all records of a file are of one task."
        )
    return f"{file}/{name}"


def _conversations(
    file: str,
    documents: Iterable[Document],
    config: BuildConfig,
    measure: Measure,
    dropped: Counter[str],
) -> Iterator[Document]:
    yield from long_conversations.build(
        file,
        (document.messages for document in documents),
        length=config.length,
        measure=measure,
        threshold=config.similarity,
        dropped=dropped,
    )


def _characters(document: Document) -> int:
    return len(document.text)
