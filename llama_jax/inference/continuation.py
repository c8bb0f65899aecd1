"""Ids of a continuation -> its text, piece by piece, up to a stop string."""

from collections.abc import Iterable, Sequence

from llama_jax.text.stream import TextStream
from llama_jax.text.tokenizer import Tokenizer

_TAIL = 16  # Prompt ids read again: the longest character of byte pieces has four.


class StopStrings:
    """Lets text through until one of some strings begins; a piece may hold only a part of it.

    stop "END"
    pieces in   "The E"   "nd. E"     "N"   "D!"
    and out     "The "    "End. "     ""    ""       (then `found`)
    """

    def __init__(self, stop: Sequence[str]):
        self._stop = stop
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Returns the text that is certainly before a stop string."""
        if self.found:
            return ""
        text = self._held + piece
        begins = [begin for string in self._stop if (begin := text.find(string)) >= 0]
        self.found = bool(begins)
        certain = min(begins) if begins else len(text) - self._beginning(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Returns what was held back and turned out not to be a stop string."""
        return "" if self.found else self._held

    def _beginning(self, text: str) -> int:
        """Returns how many last characters of the text may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=0)
        for size in range(min(longest - 1, len(text)), 0, -1):
            if any(string.startswith(text[-size:]) for string in self._stop):
                return size
        return 0


class Continuation:
    """The text that follows a prompt: prompt + all pieces is the decoded whole.

    The space before the first word is a part of the continuation, unless the prompt has no text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]):
        self._stream = TextStream(tokenizer)
        self._stop = StopStrings(stop)
        for id in prompt[-_TAIL:]:
            self._stream.push(id)
        self._stream.finish()

    @property
    def stopped(self) -> bool:
        """True once a stop string was seen; further ids give no text."""
        return self._stop.found

    def push(self, ids: Iterable[int]) -> str:
        """Returns the text that is certain after these ids; perhaps nothing."""
        return "".join(self._stop.push(self._stream.push(id)) for id in ids)

    def finish(self) -> str:
        """Returns what was held back."""
        return self._stop.push(self._stream.finish()) + self._stop.finish()
