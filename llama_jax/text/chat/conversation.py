"""Who says what, and what cannot be written as a conversation."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
# "all" learns every token but BOS, "completion" what the assistant says once it was asked, "last"
# only what it says last: for instructions that must hold over many turns (GAtt,
# https://arxiv.org/abs/2307.09288, section 3.3).
Loss = Literal["all", "completion", "last"]


class Message(NamedTuple):
    """What one says before another speaks."""

    role: Role
    text: str
    input: str = ""  # What an instruction is about, where a template has a place of its own for it.


class Refused(ValueError):
    """A conversation that a template cannot write: the reason it is counted by, and a sentence."""

    def __init__(self, reason: str, details: str):
        super().__init__(details)
        self.reason, self.details = reason, details


def with_words(messages: Iterable[Message]) -> list[Message]:
    """Returns the messages in which there is a word."""
    return [m for m in messages if m.text.strip() or m.input.strip()]


def answered(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages up to the last answer to a question.

    Raises:
        Refused: There is none.
    """
    if not (indices := answers(messages)):
        raise Refused("no answer", "nothing is said by the assistant after a question")
    return list(messages[: indices[-1] + 1])


def answers(messages: Sequence[Message]) -> list[int]:
    """Returns which messages are the assistant's, once something was asked."""
    roles = [message.role for message in messages]
    return [i for i, role in enumerate(roles) if role == "assistant" and "user" in roles[:i]]


def learned(messages: Sequence[Message], loss: Loss) -> set[int]:
    """Returns which messages are learned as answers; with loss "all" everything is besides."""
    found = answers(messages)
    return set(found[-1:] if loss == "last" else found)


def check_ends_with_question(messages: Sequence[Message]) -> None:
    """Checks that the next to speak is the assistant.

    Raises:
        Refused: It is not.
    """
    if not messages or messages[-1].role != "user":
        said = f"the last message is the {messages[-1].role}'s" if messages else "there is none"
        raise Refused(
            "no question", f"{said}; a conversation to be continued must end with the user's."
        )
