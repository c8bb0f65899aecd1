"""What comes of one request: an answer, or nothing of use."""

import dataclasses


class Unusable(Exception):
    """A reply, or none, that holds no answer; the message says why. Asking again may help.

    Args:
        why: In one line.
        wait: Seconds that the host asks to wait before the next attempt.
    """

    def __init__(self, why: str, wait: float = 0.0):
        super().__init__(why)
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the teacher wrote, and what was counted; -1 where the host did not say."""

    text: str
    tokens_in: int = -1
    tokens_out: int = -1
    is_cut: bool = False  # It stopped at max_tokens.
    logprobs: str = ""  # JSON, see logprobs.py; "" where none were asked for.
