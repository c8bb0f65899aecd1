"""A task and its examples, before they are put into words."""

import dataclasses
from typing import NamedTuple


class Example(NamedTuple):
    """A question and its answer."""

    input: str
    output: str


@dataclasses.dataclass(frozen=True)
class Task:
    """Examples of one thing to do; what it is may be said (Natural Instructions) or not (P3)."""

    name: str
    definition: str  # Empty: the examples speak for themselves.
    positives: tuple[Example, ...]  # Shown beside the definition, never asked.
    examples: tuple[Example, ...]


class Asked(NamedTuple):
    """An example of a task that holds no others."""

    task: Task
    example: Example


UNSAID = Task("", "", (), ())  # Nothing but examples says what to do.
