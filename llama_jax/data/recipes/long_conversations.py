"""Long conversations from short ones: similar questions to one system, up to a length.

What is known of the published construction (orca-chat): short conversations under one instruction,
which becomes the system's, are joined until they reach a length in characters. Which measure of
similarity grouped them, with which threshold and in which order, is not known; here it is
`similarity.py` on what is asked first, in the order of the source. The published one stopped after
the pair that reached the length; here none goes beyond it, so that nothing is cut off later.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from llama_jax.data.recipes import similarity
from llama_jax.data.sources.document import Document
from llama_jax.data.sources.records import conversation
from llama_jax.text.chat.conversation import Message, with_words


def build(
    name: str,
    conversations: Iterable[Sequence[Message]],
    *,
    length: int,
    measure: Callable[[Document], int],
    threshold: float,
    dropped: Counter[str],
) -> Iterator[Document]:
    """Yields conversations joined from similar ones.

    Args:
        name: Of what they are, followed by a number, in the names of documents.
        conversations: The system's message or none, then what is asked and answered.
        length: What is longer by itself stands alone; everything else stays within it.
        measure: The length of a conversation, in characters or in tokens.
        threshold: Of similarity, in [0, 1]; 0 joins any that share a rarer word.
        dropped: Counts conversations in which nothing is asked ("no question") or answered.
    """
    number = 0
    for system, members in _by_system(conversations, dropped).items():
        for indices in similarity.group([messages[0].text for messages in members], threshold):
            for document in _joined(system, [members[i] for i in indices], length, measure):
                yield dataclasses.replace(document, name=f"{name}#{number}")
                number += 1


def _by_system(
    conversations: Iterable[Sequence[Message]], dropped: Counter[str]
) -> dict[str, list[list[Message]]]:
    found: dict[str, list[list[Message]]] = {}
    for messages in conversations:
        system = "\n\n".join(message.text for message in messages if message.role == "system")
        said = with_words(message for message in messages if message.role != "system")
        if not said or said[0].role != "user":
            dropped["no question"] += 1
        elif all(message.role == "user" for message in said):
            dropped["no answer"] += 1
        else:
            # What nobody answered would stand before the next question.
            last = max(i for i, message in enumerate(said) if message.role == "assistant")
            found.setdefault(system, []).append(said[: last + 1])
    return found


def _joined(
    system: str, members: list[list[Message]], length: int, measure: Callable[[Document], int]
) -> Iterator[Document]:
    """Yields conversations with the system's message before them, none of them too long."""
    held, count = members[0], 1
    for messages in members[1:]:
        if measure(_document(system, held + messages, count + 1)) > length:
            yield _document(system, held, count)
            held, count = [], 0
        held, count = held + messages, count + 1
    yield _document(system, held, count)


def _document(system: str, messages: list[Message], count: int) -> Document:
    first = [Message("system", system)] if system else []
    meta = {"system": system, "conversations": count}
    return conversation.document([*first, *messages], meta)
