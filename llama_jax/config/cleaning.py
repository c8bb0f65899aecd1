"""Which documents are kept: filters, deduplication, decontamination."""

import dataclasses
from dataclasses import field
from typing import Any, Literal

from llama_jax.config.idle import refuse_idle


@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeConfig:
    """A number that a record carries must lie in [minimum, maximum]."""

    minimum: float = float("-inf")
    maximum: float = float("inf")

    def __post_init__(self):
        if not self.minimum <= self.maximum:
            raise ValueError(f"minimum is {self.minimum}, above maximum, which is {self.maximum}.")
        if (self.minimum, self.maximum) == (float("-inf"), float("inf")):
            raise ValueError("minimum and maximum are unset, so the range has no effect. Set one.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """What a document must be like. Words are what white space separates."""

    min_words: int = 0  # 2,000 in the recipe for 32K.
    max_words: int = -1  # -1: no limit.
    min_characters: int = 0
    max_characters: int = -1  # -1: no limit.
    languages: tuple[str, ...] = ()  # Kept ones, as the records or the model write them: "en".
    # Where the record says its language; dots descend: "identification.label".
    language_field: str = "language"
    # A fastText model file (lid.176.bin), for records that do not say it.
    language_model: str = ""
    language_score: float = 0.65  # The model must be surer than this.
    fields: dict[str, RangeConfig] = field(default_factory=dict)  # wiki_prob, alnum_prop, ...
    # A record without one of `fields`, or without a language: stop there, or keep or drop it.
    without_field: Literal["stop", "keep", "drop"] = "stop"
    # Rules of the Gopher and C4 papers, for web pages. c4_quality also removes lines.
    rules: tuple[Literal["gopher_quality", "gopher_repetition", "c4_quality"], ...] = ()

    def __post_init__(self):
        _check_range(self, "min_words", "max_words")
        _check_range(self, "min_characters", "max_characters")
        if not 0 <= self.language_score <= 1:
            raise ValueError(f"language_score is {self.language_score}; it must be in [0, 1].")
        if not self.languages:
            refuse_idle(self, ("language_field", "language_model"), "languages is empty")
        if not self.language_model:
            refuse_idle(self, ("language_score",), "language_model is ''")
        else:
            refuse_idle(self, ("language_field",), "language_model is set")
        if not self.fields and (self.language_model or not self.languages):
            refuse_idle(self, ("without_field",), "no field is read")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    """Near duplicates by MinHash: two documents that agree on all hashes of one bucket.

    With n-grams of which a share s is common, they are found with probability
    1 - (1 - s^hashes)^buckets: 0.92 at s = 0.8, 0.56 at s = 0.7.
    """

    ngram: int = 5  # Words.
    buckets: int = 14
    hashes: int = 8  # Per bucket.
    seed: int = 1

    def __post_init__(self):
        _check_at_least(self, 1, "ngram", "buckets", "hashes")
        _check_at_least(self, 0, "seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimHashConfig:
    """Near duplicates by simhash, as RedPajama did with books."""

    # What a shingle is made of: words, or the characters of all words written together (what
    # RedPajama's program takes).
    unit: Literal["words", "characters"] = "words"
    shingle: int = 6
    distance: int = 5  # Bits of 64 in which duplicates differ at most.

    def __post_init__(self):
        _check_at_least(self, 1, "shingle")
        if not 0 <= self.distance <= 15:
            raise ValueError(f"distance is {self.distance}; it must be in [0, 15] of 64 bits.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """Of documents that are alike the first is kept, in the order of files and their lines."""

    methods: tuple[Literal["exact", "minhash", "simhash"], ...] = ()  # In this order.
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    simhash: SimHashConfig = field(default_factory=SimHashConfig)

    def __post_init__(self):
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods is {self.methods}; it names a method twice.")
        for name in ("minhash", "simhash"):
            if name not in self.methods:
                refuse_idle(self, (name,), f"methods lacks {name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Documents that share n words in a row with an evaluation set are removed."""

    sets: str = ""  # Folder of evaluation sets: instances.json of HELM, *.jsonl. "" does nothing.
    n: Literal[5, 9, 13] = 13
    # "redpajama": ASCII lower case, ASCII punctuation deleted. "helm": lower case, split at ASCII
    # punctuation too; text that ends in it ends in an empty word.
    normalisation: Literal["redpajama", "helm"] = "redpajama"
    # What of an instance counts: what is put to the model, or also answers and references.
    texts: Literal["inputs", "all"] = "inputs"
    # Fields of a JSON line that are put to the model; those that a line has are read.
    input_fields: tuple[str, ...] = ("input", "prompt", "query", "question", "context", "text")

    def __post_init__(self):
        if not self.input_fields:
            raise ValueError("input_fields is empty; name at least one.")
        if not self.sets:
            names = ("n", "normalisation", "texts", "input_fields")
            refuse_idle(self, names, "sets is ''")


def _check_range(config: Any, low: str, high: str) -> None:
    _check_at_least(config, 0, low)
    _check_at_least(config, -1, high)
    if -1 < getattr(config, high) < getattr(config, low):
        raise ValueError(
            f"{low} is {getattr(config, low)}, above {high}, which is {getattr(config, high)}."
        )


def _check_at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {least}.")
