"""Questions over many documents, one of which holds the answer, at a place that can be chosen.

A record has a question, its answers, retrieved documents (`ctxs`) of which those that hold no
answer are used, in the order of retrieval, and an annotated one (`nq_annotated_gold`) that does
(the "Lost in the Middle" data, and anything of its shape).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from llama_jax.config.data import QuestionConfig
from llama_jax.data.recipes.order import shuffled, uniform
from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields

Variant = Literal["plain", "random_order", "query_aware", "closed_book"]

_INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant)."
)
_RANDOM_ORDER = " The search results are ordered randomly."


class Found(NamedTuple):
    """A document that a search found."""

    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, the document that answers it, and others that do not, best first."""

    question: str
    answers: tuple[str, ...]
    long_answer: str
    gold: Found
    others: tuple[Found, ...]


def read(record: Mapping[str, Any]) -> Question:
    """Returns what a record asks.

    Raises:
        Unreadable: It has not the shape, or no answer.
    """
    gold = fields.value(record, "nq_annotated_gold")
    if not isinstance(gold, dict):
        raise Unreadable("not an object", f"'nq_annotated_gold' is a {type(gold).__name__}")
    answers = tuple(answer for answer in fields.texts(record, "answers") if answer.strip())
    if not answers:
        raise Unreadable("no answer", "'answers' is empty")
    contexts = [ctx for ctx in fields.objects(record, "ctxs") if ctx.get("hasanswer") is False]
    return Question(
        fields.text(record, "question"),
        answers,
        fields.text(gold, "long_answer"),
        Found(fields.text(gold, "title"), fields.text(gold, "chunked_long_answer")),
        tuple(Found(fields.text(ctx, "title"), fields.text(ctx, "text")) for ctx in contexts),
    )


def arrange(question: Question, documents: int, gold: int) -> list[Found]:
    """Returns so many documents, of which number `gold`, counted from 0, holds the answer.

    Raises:
        ValueError: There is no such place among so many documents.
        Unreadable: The record has too few documents.
    """
    if not 0 <= gold < documents:
        raise ValueError(f"gold is {gold}; it must be in [0, {documents}), the documents' numbers.")
    if len(question.others) < documents - 1:
        raise Unreadable(
            "too few documents",
            f"{len(question.others)} without an answer; {documents} in all need {documents - 1}",
        )
    others = list(question.others[: documents - 1])
    return [*others[:gold], question.gold, *others[gold:]]


def reorder(found: list[Found], gold: int, seed: int, name: str) -> list[Found]:
    """Returns the documents in an order by chance, the one that answers where it was."""
    others = shuffled(found[:gold] + found[gold + 1 :], seed, name)
    return [*others[:gold], found[gold], *others[gold:]]


def place(config: QuestionConfig, question: Question) -> tuple[int, int]:
    """Returns how many documents a question has, and which of them answers, by hashes of it.

    Raises:
        Unreadable: There are fewer than the least number.
    """
    least, there = config.least_documents, len(question.others) + 1
    if there < least:
        raise Unreadable(
            "too few documents", f"{there} with the one that answers; it must be {least} or more"
        )
    most, asked = min(config.most_documents, there), question.question
    documents = uniform(config.seed, f"documents of {asked}", least, most)
    if config.gold >= 0:
        return documents, config.gold
    return documents, uniform(config.seed, f"place of {asked}", 0, documents - 1)


def prompt(question: str, found: list[Found], variant: Variant = "plain") -> str:
    """Returns what a model is asked in evaluation; it goes on after "Answer:"."""
    if variant == "closed_book":
        return f"Question: {question}\nAnswer:"
    instruction = _INSTRUCTION + (_RANDOM_ORDER if variant == "random_order" else "")
    asked_before = f"Question: {question}\n\n" if variant == "query_aware" else ""
    return f"{instruction}\n\n{asked_before}{_list(found)}\n\nQuestion: {question}\nAnswer:"


def parse(config: QuestionConfig, record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields the record's question over documents as text for training."""
    asked = read(record)
    yield training_text(asked, *place(config, asked))


def training_text(asked: Question, documents: int, gold: int) -> Document:
    """Returns the prompt and what is learned: short answer, long answer, the document's number.

    `documents` and `gold` are as in `arrange`. Unlike in evaluation line ends in a text become
    spaces, so that a document, a question and an answer have one line each, and an empty line only
    separates instruction, documents and question.
    """
    found = [Found(*map(_line, each)) for each in arrange(asked, documents, gold)]
    before = f"{_INSTRUCTION}\n\n{_list(found)}\n\nQuestion: {_line(asked.question)}\n"
    answer = (
        f"Answer: {_line(asked.answers[0])}\nLong Answer: {_line(asked.long_answer)}\n"
        f"Gold Document ID: {gold + 1}"
    )
    meta = {"question": asked.question, "documents": documents, "gold_document": gold + 1}
    return join([Piece(before), Piece(answer, True)], meta | {"gold_title": found[gold].title})


def _list(found: list[Found]) -> str:
    return "\n".join(
        f"Document [{i}](Title: {title}) {text}" for i, (title, text) in enumerate(found, start=1)
    )


def _line(text: str) -> str:
    return " ".join(text.splitlines()).strip()
