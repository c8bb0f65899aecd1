"""Long conversations from short ones: similar questions to one system, up to a length.

What is known of the published construction (orca-chat): short conversations under one instruction,
which becomes the system's, are joined until they reach a length in characters. Which measure of
similarity grouped them, with which threshold and in which order, is not known; here it is
`similarity.py` on what is asked first, in the order of the source. The published one stopped after
the pair that reached the length; here none goes beyond it, so that nothing is cut off later.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from llama_jax.data.recipes import similarity
from llama_jax.data.sources.document import Document
from llama_jax.data.sources.pieces import join
from llama_jax.data.sources.records.conversation import Turn, pieces


def build(
    name: str,
    conversations: Iterable[list[Turn]],
    *,
    length: int,
    measure: Callable[[str], int],
    threshold: float,
    dropped: Counter[str],
) -> Iterator[Document]:
    """Yields conversations joined from similar ones.

    Args:
        name: Of what they are, followed by a number, in the names of documents.
        conversations: A system's turn or none, then what is asked and answered.
        length: What is longer by itself stands alone; everything else stays within it.
        measure: The length of a text: `len` for characters, or a count of tokens.
        threshold: Of similarity, in [0, 1]; 0 joins any that share a rarer word.
        dropped: Counts conversations in which nothing is asked ("no question") or answered.
    """
    number = 0
    for system, members in _by_system(conversations, dropped).items():
        for indices in similarity.group([_asked(turns) for turns in members], threshold):
            for turns, count in _joined(system, [members[i] for i in indices], length, measure):
                meta = {"system": system, "conversations": count}
                yield join(pieces(turns), meta, f"{name}#{number}")
                number += 1


def _by_system(
    conversations: Iterable[list[Turn]], dropped: Counter[str]
) -> dict[str, list[list[Turn]]]:
    found: dict[str, list[list[Turn]]] = {}
    for turns in conversations:
        system = "\n\n".join(turn.text for turn in turns if turn.speaker == "system")
        said = [turn for turn in turns if turn.speaker != "system" and turn.text.strip()]
        if not said or said[0].speaker != "human":
            dropped["no question"] += 1
        elif all(turn.speaker == "human" for turn in said):
            dropped["no answer"] += 1
        else:
            found.setdefault(system, []).append(said)
    return found


def _asked(turns: list[Turn]) -> str:
    return turns[0].text


def _joined(
    system: str, members: list[list[Turn]], length: int, measure: Callable[[str], int]
) -> Iterator[tuple[list[Turn], int]]:
    """Yields turns with the system's before them, and how many conversations they were."""
    first = Turn("system", system)
    held, count = [first, *members[0]], 1
    for turns in members[1:]:
        if measure("".join(piece.text for piece in pieces([*held, *turns]))) > length:
            yield held, count
            held, count = [first], 0
        held, count = held + turns, count + 1
    yield held, count
