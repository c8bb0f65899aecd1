"""How conversations become tokens."""

import dataclasses
import datetime
from typing import Literal

from llama_jax.config.idle import refuse_idle

# The shapes of records that are conversations.
RECORDS = ("sharegpt", "orca_chat", "messages", "open_assistant", "instruction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """A chat template, what is learned of what it writes, and what is done about lengths."""

    # A name of llama_jax/text/chat/table.py, or where a Hugging Face chat template is: a Jinja
    # file, a tokenizer_config.json, a folder of one. "" writes "<human>: ..." and "<bot>: ...".
    template: str = ""
    # What is learned: every token, what the assistant says, or the last that it says (GAtt).
    loss: Literal["all", "completion", "last"] = "completion"
    # For template "oasst": "compat" also learns all before the first question, as the programs did
    # that trained llama2-13b-orca-8k-3319.
    mask: Literal["fixed", "compat"] = "fixed"
    date: str = ""  # The day it is for a Jinja template that asks: "2023-07-18".
    max_length: int = 0  # Tokens of a conversation; 0: no limit.
    # What becomes of longer ones: they stop everything, lose their end, are read through a window
    # at a random place, are left out, or become several.
    overlong: Literal["error", "truncate", "window", "drop", "split"] = "error"
    # Share of the longer ones that "window" takes a random window of; the others lose their end.
    # Open-Assistant's random_offset_probability.
    window_probability: float = 0.8
    # Conversations with fewer tokens may become one with another that is as short: Open-Assistant's
    # short-sample mixing, there with 256. 0 joins none.
    mix_length_threshold: int = 0
    mix_probability: float = 0.4  # Share of these that may. Their 0.6 is of those left alone.

    def __post_init__(self):
        for name in ("max_length", "mix_length_threshold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("window_probability", "mix_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1].")
        self._check_date()
        if not self.template:
            names = tuple(field.name for field in dataclasses.fields(self))
            refuse_idle(self, names, "template is ''")
        if self.template != "oasst":
            refuse_idle(self, ("mask",), f"template is {self.template!r}")
        if not self.max_length:
            refuse_idle(self, ("overlong",), "max_length is 0")
        if self.overlong != "window":
            refuse_idle(self, ("window_probability",), f"overlong is {self.overlong!r}")
        if not self.mix_length_threshold:
            refuse_idle(self, ("mix_probability",), "mix_length_threshold is 0")

    def _check_date(self) -> None:
        try:
            datetime.date.fromisoformat(self.date or "2000-01-01")
        except ValueError:
            raise ValueError(f"date is {self.date!r}; it must be like 2023-07-18.") from None
