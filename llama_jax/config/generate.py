"""How a prompt is continued."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to continue with, and when to stop; the defaults choose the likeliest token, always.

    The steps of choosing, in this order: repetition penalty, temperature, top_k, top_p.
    """

    max_new_tokens: int | None = None  # At most so many tokens; None: up to the model's context.
    max_length: int | None = None  # As max_new_tokens, with the prompt (and its BOS) counted.
    temperature: float = 0.0  # Divides the logits; 0 takes the likeliest token.
    top_k: int = 0  # Chooses among the k likeliest tokens; 0: among all.
    top_p: float = 1.0  # Chooses among the fewest likeliest tokens with this mass; 1: among all.
    repetition_penalty: float = 1.0  # Logits of tokens seen, prompt too: >0 divided, <0 multiplied.
    stop: tuple[str, ...] = ()  # The text ends before the first of these.
    seed: int = 0  # The same seed and prompt give the same text.

    def __post_init__(self):
        self._check_lengths()
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature is {self.temperature}; it must be at least 0 (0: the likeliest)."
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or 0 for all tokens.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be in (0, 1] (1: all tokens).")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be positive (1: none)."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be in [0, 2^32).")
        self._refuse_ignored()
        self._check_stop()

    def _check_lengths(self):
        for name in ("max_new_tokens", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")

    def _refuse_ignored(self):
        for name, neutral in (("top_k", 0), ("top_p", 1.0)):
            value = getattr(self, name)
            if self.temperature == 0 and value != neutral:
                raise ValueError(
                    f"{name} is {value} but temperature is 0, which takes the likeliest token, so "
                    "it has no effect. Set temperature, e.g. 0.7."
                )

    def _check_stop(self):
        if isinstance(self.stop, str):
            raise ValueError(f"stop is {self.stop!r}; it must be a tuple: ({self.stop!r},).")
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which is everywhere. Leave it out.")
