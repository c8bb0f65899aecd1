"""Tokens of a conversation that is too long -> pieces that are not: `ChatConfig.overlong`.

With max_length 4, ten tokens, of which the last five are learned:

    truncate    0123                  and nothing of it is learned: it is left out
    window         3456               from a place that the seed and the name decide
    split       0123 4567 89          the first is left out
    drop
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llama_jax.config.chat import ChatConfig


class Piece(NamedTuple):
    """Some tokens of a conversation, and the weights of predicting them."""

    ids: list[int]
    weights: np.ndarray


def fit(
    whole: Piece, config: ChatConfig, chance: Callable[[str], float]
) -> tuple[list[Piece], str]:
    """Returns pieces of at most `max_length` tokens, and in a word what was done, if anything.

    Args:
        whole: The conversation.
        config: What is done.
        chance: Gives a number in [0, 1) for a purpose, the same whenever it is asked.

    Raises:
        ValueError: It is too long, and that is an error.
    """
    length, most = len(whole.ids), config.max_length
    if not most or length <= most:
        return [whole], ""
    if config.overlong == "error":
        raise ValueError(
            f"has {length} tokens, more than chat.max_length={most}. Set chat.overlong to "
            "'truncate', 'window', 'drop' or 'split', or max_length to 0."
        )
    if config.overlong == "drop":
        return [], "too long"
    if config.overlong == "split":
        return [_cut(whole, start, most) for start in range(0, length, most)], "split"
    if config.overlong == "window" and chance("whether") < config.window_probability:
        return [_cut(whole, int(chance("where") * (length - most + 1)), most)], "windowed"
    return [_cut(whole, 0, most)], "truncated"


def _cut(whole: Piece, start: int, length: int) -> Piece:
    part = slice(start, start + length)
    return Piece(whole.ids[part], whole.weights[part])
