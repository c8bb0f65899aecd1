"""Short conversations, two of them to a document: Open-Assistant's short-sample mixing.

    written     a  LONG  b  c  d  LONG             short ones that may be joined: a, b, d
    becomes     LONG  ab  c  LONG  d               c is left alone by chance, d finds no other

Both stay as they are, with their own BOS, and see each other. Theirs joins what is drawn into one
batch; here it is what is written next to it, so that the same settings give the same bytes.
"""

from collections.abc import Callable

import numpy as np

from llama_jax.config.chat import ChatConfig
from llama_jax.data.preparation.parts import uniform

Add = Callable[[np.ndarray, np.ndarray | None], None]


class Mixer:
    """Hands documents on to `add`, some short ones joined; at most one is held back."""

    def __init__(self, config: ChatConfig, seed: int, add: Add):
        self._config, self._seed, self._add = config, seed, add
        self._held: tuple[np.ndarray, np.ndarray | None] | None = None
        self.joined = 0  # Documents that are a part of another now.

    def add(self, number: int, ids: np.ndarray, weights: np.ndarray | None) -> None:
        """Takes one document; its number decides what happens to it."""
        if not self._may_be_joined(number, ids):
            self._add(ids, weights)
        elif self._held is None:
            self._held = ids, weights
        else:
            first, first_weights = self._held
            self._held = None
            self.joined += 1
            both = None
            if first_weights is not None and weights is not None:
                both = np.concatenate([first_weights, weights])
            self._add(np.concatenate([first, ids]), both)

    def finish(self) -> None:
        """Hands on what is held back."""
        if self._held is not None:
            self._add(*self._held)

    def _may_be_joined(self, number: int, ids: np.ndarray) -> bool:
        threshold, most = self._config.mix_length_threshold, self._config.max_length
        if len(ids) >= threshold or (most and 2 * len(ids) > most):
            return False
        return uniform(self._seed, "mix", str(number)) < self._config.mix_probability
