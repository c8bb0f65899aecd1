"""What was read and what became of it: documents, words, tokens, lengths, what was left out."""

import dataclasses
from collections import Counter
from typing import Any, Self


@dataclasses.dataclass
class Account:
    """Sums over documents; two accounts add up to that of both."""

    documents: int = 0
    words: int = 0  # Separated by white space.
    tokens: int = 0
    text_bytes: int = 0  # As UTF-8.
    dropped: Counter = dataclasses.field(default_factory=Counter)  # Documents, by reason.
    read: int = 0  # Documents, whatever became of them.
    unreadable: int = 0  # Documents that could not be.
    read_bytes: int = 0  # Of the files.
    damaged_bytes: int = 0  # Of files whose rest was lost.
    # Documents of 2^(i-1) to 2^i - 1 tokens, by i.
    lengths: Counter = dataclasses.field(default_factory=Counter)
    reshaped: Counter = dataclasses.field(default_factory=Counter)  # Documents, by what was done.

    def add(self, text: str, tokens: int) -> None:
        """Counts one document that is written."""
        self.documents += 1
        self.words += len(text.split())
        self.tokens += tokens
        self.text_bytes += len(text.encode())
        self.lengths[tokens.bit_length()] += 1

    def __iadd__(self, other: Self) -> Self:
        for field in dataclasses.fields(self):
            if field.type is int:
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.dropped.update(other.dropped)
        self.lengths.update(other.lengths)
        self.reshaped.update(other.reshaped)
        return self

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        return dataclasses.asdict(self) | {
            "dropped": dict(sorted(self.dropped.items())),
            "reshaped": dict(sorted(self.reshaped.items())),
            "lengths": {str(i): count for i, count in sorted(self.lengths.items())},
        }

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Self:
        """Returns the account that `as_json` wrote."""
        lengths = Counter({int(i): count for i, count in value["lengths"].items()})
        counters = {name: Counter(value[name]) for name in ("dropped", "reshaped")}
        return cls(**value | counters | {"lengths": lengths})
