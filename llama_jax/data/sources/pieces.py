"""Texts that are put together from pieces, some of which are answers."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from llama_jax.data.sources.document import Document, Unreadable


class Piece(NamedTuple):
    """A part of a text; a model learns to write the learned ones."""

    text: str
    is_learned: bool = False


def join(
    pieces: Iterable[Piece], meta: Mapping[str, Any], name: str = "", example: Any = None
) -> Document:
    """Returns the pieces as one text whose answers are where the learned ones stand.

    Learned pieces that touch are one answer. `example` is what of a task the pieces tell.

    Raises:
        Unreadable: Nothing in it is learned.
    """
    texts: list[str] = []
    answers: list[tuple[int, int]] = []
    length = 0
    for text, is_learned in pieces:
        stop = length + len(text)
        if is_learned and text:
            touches = bool(answers) and answers[-1][1] == length
            answers.append((answers.pop()[0] if touches else length, stop))
        texts.append(text)
        length = stop
    whole = "".join(texts)
    if not any(whole[start:stop].strip() for start, stop in answers):
        raise Unreadable("no answer", "nothing in it is left to be learned")
    return Document(name, whole, tuple(answers), meta, example=example)
