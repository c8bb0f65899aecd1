"""Parts of a written conversation -> ids, loss weights, roles.

A special token is a part of its own and becomes its id; all text between two of them is encoded as
one, so that the ids are those of the text as it stands, wherever one speaker's words end:

    parts    <s>  "[INST] "  "Hi"  " [/INST]"  " "  "Hello"  " "  </s>
    tokens   <s>  _[ INST ]  _Hi   _[ / INST ]      _Hello    _   </s>
    learned   0    0    0 0   0     0 0    0  0       1       1    1

A token is learned if any of its characters is, and its role is that of its last character. The
weight of a token is the weight of predicting it, beside which it is stored.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llama_jax.text.chat.conversation import Role
from llama_jax.text.tokenizer import Tokenizer

ROLES: tuple[Role | None, ...] = (None, "system", "user", "assistant")
# Names for whatever ids the tokenizer has in these places.
BOS, EOS = "<s>", "</s>"


class Part(NamedTuple):
    """A piece of text, or the name of one special token."""

    text: str
    role: Role | None = None  # Whose turn it belongs to.
    is_special: bool = False
    is_learned: bool = False


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The tokens of a conversation."""

    ids: list[int]
    weights: np.ndarray  # u8: 1 where predicting the token is learned.
    roles: np.ndarray  # u8: a place in ROLES; whose turn the token belongs to.


def text(parts: Iterable[Part]) -> str:
    """Returns the parts as people write them, special tokens by their names."""
    return "".join(part.text for part in parts)


def encode(parts: Sequence[Part], tokenizer: Tokenizer) -> Encoded:
    """Returns the tokens of the parts.

    Raises:
        ValueError: The tokenizer has no special token of a part's name.
    """
    ids: list[int] = []
    weights, roles = [np.zeros(0, np.uint8)], [np.zeros(0, np.uint8)]
    known = special_ids(tokenizer)
    for is_special, run in itertools.groupby(parts, lambda part: part.is_special):
        for group in [[part] for part in run] if is_special else [list(run)]:
            found = _special(group[0], known) if is_special else _text(group, tokenizer)
            ids += found.ids
            weights.append(found.weights)
            roles.append(found.roles)
    return Encoded(ids, np.concatenate(weights), np.concatenate(roles))


def special_ids(tokenizer: Tokenizer) -> Mapping[str, int]:
    """Returns the ids of special tokens by name; BOS and EOS have theirs under any name."""
    return {**tokenizer.special, BOS: tokenizer.bos_id, EOS: tokenizer.eos_id}


def _special(part: Part, known: Mapping[str, int]) -> Encoded:
    if part.text not in known:
        raise ValueError(missing([part.text], known))
    # What follows the end of a text is the writer's: BOS is always given.
    is_learned = part.is_learned and known[part.text] != known[BOS]
    role = np.array([ROLES.index(part.role)], np.uint8)
    return Encoded([known[part.text]], np.array([is_learned], np.uint8), role)


def _text(parts: Sequence[Part], tokenizer: Tokenizer) -> Encoded:
    ids, spans = tokenizer.encode_with_offsets(text(parts))
    lengths = [len(part.text) for part in parts]
    is_learned = np.repeat([part.is_learned for part in parts], lengths)
    role = np.repeat(np.array([ROLES.index(part.role) for part in parts], np.uint8), lengths)
    before = np.concatenate([[0], np.cumsum(is_learned)])  # Learned characters before each.
    start, stop = np.minimum(spans, len(role)).T
    return Encoded(ids, (before[stop] > before[start]).astype(np.uint8), role[stop - 1])


def missing(names: Sequence[str], known: Mapping[str, int]) -> str:
    """Returns the sentence for special tokens that a tokenizer lacks."""
    return (
        f"the tokenizer has no special token {', '.join(names)}, only {', '.join(known)}. Prepare "
        f'the data with --config.added_tokens="{tuple(names)}", or take the tokenizer that the '
        "model was trained with."
    )
