"""What the documents of a source are made into before they become tokens."""

import dataclasses
from typing import Literal

from llama_jax.config import chat
from llama_jax.config.idle import refuse_idle

# Records that are examples of a task.
TASKS = ("natural_instructions", "p3", "prompt_completion")
_OF = {
    "documents": (),
    "ul2": (),
    "fewshot": ("unit", "length", "form", "examples", "task_field"),
    "conversations": ("unit", "length", "similarity"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What is built of documents that were kept; those of a file are put together, no others."""

    # "documents" leaves them as they are; "ul2" makes UL2 dialogues of them, "fewshot" puts many
    # examples of a task into one text, "conversations" joins similar conversations to long ones
    # (ul2_text.py, fewshot.py, long_conversations.py of llama_jax/data/recipes).
    kind: Literal["documents", "ul2", "fewshot", "conversations"] = "documents"
    # What length is: tokens, with all that TextConfig puts around a text, or characters of a text.
    unit: Literal["tokens", "characters"] = "tokens"
    length: int = 32_768  # No text that is put together is longer.
    form: Literal["tk_instruct", "dialogue"] = "tk_instruct"  # How examples are written.
    examples: int = -1  # Of one text at most (20 in OIG's conversations); -1: as many as fit.
    # Where records say which task they are of; dots descend. "": all of a file are of one.
    task_field: str = ""
    similarity: float = 0.2  # Of questions that are joined, in [0, 1]: recipes/similarity.py.

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"length is {self.length}; it must be at least 1.")
        if self.examples != -1 and self.examples < 1:
            raise ValueError(f"examples is {self.examples}; it must be at least 1, or -1.")
        if not 0 <= self.similarity <= 1:
            raise ValueError(f"similarity is {self.similarity}; it must be in [0, 1].")
        names = {field.name for field in dataclasses.fields(self)} - {"kind", *_OF[self.kind]}
        refuse_idle(self, tuple(sorted(names)), f"kind is {self.kind!r}")

    def check_record(self, record: str) -> None:
        """Raises ValueError if nothing of this kind can be built of such records."""
        needed = {"fewshot": TASKS, "conversations": chat.RECORDS}.get(self.kind)
        if needed and record not in needed:
            raise ValueError(
                f"build.kind is {self.kind!r} but record is {record!r}; it must be one of "
                f"{', '.join(map(repr, needed))}."
            )
