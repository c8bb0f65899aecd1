"""Conversations -> tokens and weights, by a chat template."""

import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from llama_jax.config.chat import ChatConfig
from llama_jax.config.data import TextConfig
from llama_jax.config.prepare import PrepareConfig
from llama_jax.core.errors import DataError
from llama_jax.data.preparation import overlong
from llama_jax.data.preparation.account import Account
from llama_jax.data.preparation.overlong import Piece
from llama_jax.data.preparation.parts import uniform
from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.documents import Reader
from llama_jax.text.chat.chat import Chat, load_chat, template_file
from llama_jax.text.chat.conversation import Refused
from llama_jax.text.chat.parts import Encoded
from llama_jax.text.chat.table import TEMPLATES
from llama_jax.text.tokenizer import Tokenizer

# A template that fails 10 seconds long for every conversation would take weeks.
_MOST_FAILURES = 10


def load(config: ChatConfig, tokenizer: Tokenizer) -> Chat:
    """Returns the template of a source."""
    return load_chat(config.template, tokenizer, config.date)


def check(config: PrepareConfig, tokenizer: Tokenizer) -> None:
    """Checks the templates of all sources.

    Raises:
        ValueError: One does not exist, or the tokenizer lacks a special token of it.
    """
    for source in config.sources.values():
        if source.chat.template:
            load(source.chat, tokenizer).close()


def digest(config: PrepareConfig) -> str:
    """Returns a hash of the Jinja templates that the sources name."""
    found = hashlib.sha256()
    for _, source in sorted(config.sources.items()):
        if source.chat.template and source.chat.template not in TEMPLATES:
            found.update(template_file(Path(source.chat.template)).read_bytes())
    return found.hexdigest()


def encode(
    documents: Iterable[Document],
    chat: Chat,
    config: ChatConfig,
    text: TextConfig,
    seed: int,
    reader: Reader,
    account: Account,
) -> Iterator[tuple[Document, list[int], np.ndarray]]:
    """Yields every conversation with its ids, and per id 1 if it is learned.

    What the template refuses is treated as what cannot be read, and counted by its reason.

    Raises:
        DataError: A conversation is refused or too long, and that is an error.
    """
    failures = 0
    for document in documents:
        try:
            found = encoded(document, chat, config, text)
        except Refused as problem:
            failures += problem.reason == "chat template failed"
            if failures > _MOST_FAILURES:
                raise DataError(f"{document.name}: {problem} So it was {failures} times.") from None
            details = problem.details.rstrip(".")  # Another sentence follows it.
            reader.leave_out(document, Unreadable(problem.reason, details))
            continue
        for i, piece in enumerate(_pieces(document, found, config, seed, account)):
            # A text is counted once.
            yield dataclasses.replace(document, text="" if i else document.text), *piece


def encoded(document: Document, chat: Chat, config: ChatConfig, text: TextConfig) -> Encoded:
    """Returns the tokens of one conversation.

    Raises:
        Refused: The template cannot write it.
    """
    return chat.encode(
        document.messages,
        config.loss,
        bos=text.add_bos,
        eos=text.add_eos,
        before=text.before,
        compat=config.mask == "compat",
    )


def length(document: Document, chat: Chat, config: ChatConfig, text: TextConfig) -> int:
    """Returns how many tokens a conversation has; more than any limit if none can be written."""
    try:
        return len(encoded(document, chat, config, text).ids)
    except Refused:
        return sys.maxsize


def _pieces(
    document: Document, found: Encoded, config: ChatConfig, seed: int, account: Account
) -> Iterator[Piece]:
    """Yields what is left of a conversation that may be too long, if anything of it is learned."""
    whole = Piece(found.ids, found.weights)

    def chance(purpose: str) -> float:
        return uniform(seed, f"window, {purpose}", document.name)

    try:
        pieces, done = overlong.fit(whole, config, chance)
    except ValueError as error:
        raise DataError(f"{document.name} {error}") from None
    if not pieces:
        account.dropped[done] += 1
    elif done:
        account.reshaped[done] += 1
    for piece in pieces:
        if piece.weights.any():
            yield piece
        else:
            account.dropped["nothing left to be learned"] += 1
