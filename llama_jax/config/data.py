"""What is read, in which proportions, and how it becomes rows of tokens."""

import dataclasses
from dataclasses import field
from typing import Literal

from llama_jax.config import idle

_OF_RECORDS = ("record", "field", "template", "learn", "questions")
# Settings of a source without effect, by format; the formats that are not named have no fields.
_IGNORED = {
    "auto": (),
    "parquet": (),
    "arrow": (),
    "prepared": ("pattern", "exclude", "columns", *_OF_RECORDS),
    "jsonl": ("columns",),
    "json": ("columns",),
    "array_record": ("columns",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionConfig:
    """Questions that are put beside documents: how many, and where the one that answers stands."""

    # As in Long-Data-Collections: 10 to 200. By a hash of the question, and no more than are there.
    least_documents: int = 10
    most_documents: int = 200
    gold: int = -1  # Number of the document that answers, from 0; -1: by a hash of the question.
    seed: int = 0  # Of the hashes.

    def __post_init__(self):
        if not 1 <= self.least_documents <= self.most_documents:
            raise ValueError(
                f"least_documents is {self.least_documents} and most_documents is "
                f"{self.most_documents}; they must be at least 1, the second not below the first."
            )
        if not -1 <= self.gold < self.least_documents:
            raise ValueError(
                f"gold is {self.gold}; it must be -1 or the number, from 0, of one of "
                f"least_documents ({self.least_documents})."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One member of a mixture: a prepared folder, or raw files that are tokenised at the start."""

    path: str  # Required. A prepared folder, a file, or a folder of files.
    weight: float = 1.0  # Share of the rows, relative to the other members.
    # "auto" tells each file by its name; the table is in llama_jax/data/README.md.
    format: Literal[
        "auto",
        "prepared",
        "jsonl",
        "json",
        "text",
        "parquet",
        "arrow",
        "array_record",
        "array_record_text",
        "megatron",
        "llama2c",
    ] = "auto"
    pattern: str = "**/*"  # Which files of a folder of raw files, as a glob.
    exclude: tuple[str, ...] = ()  # Folder or file names that are left out.
    # The shape of the records, a name of data/README.md's table: what of a record is the text,
    # and what of the text is learned.
    record: str = "text"
    field: str = "text"  # The field that holds the document, of records "text".
    # For records "template", one's own shape: "Q: {question}\nA: {answer}", and the fields that are
    # learned; without them everything is.
    template: str = ""
    learn: tuple[str, ...] = ()
    # For records "lost_in_the_middle". (`field` is a setting here.)
    questions: QuestionConfig = dataclasses.field(default_factory=QuestionConfig)
    columns: tuple[str, ...] = ()  # Of Parquet and Arrow: those that are read; none named is all.
    # Share of the documents that is read of those not held out, rounded down; chosen by a hash.
    fraction: float = 1.0
    # This many documents (a hash chooses them) are kept back: part "train" reads the others, and an
    # evaluator whose source says part "held_out" reads them.
    max_val_set: int = 0
    part: Literal["train", "held_out"] = "train"
    max_chunk_size: int = 0  # Longer documents become several of at most this many tokens; 0: none.
    epochs: float = float("inf")  # A run that would read the source more often is refused.
    # "completion" weighs each predicted token as it was prepared: 0 for prompts, 1 for answers.
    loss: Literal["all", "completion"] = "all"
    denoise: float = 0.0  # Share of its rows that DenoiseConfig's denoisers change. For training.

    def __post_init__(self):
        self._check_reading()
        self._check_denoise()
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight is {self.weight}; it must be positive and finite.")
        self._refuse("format", _IGNORED.get(self.format, ("columns", *_OF_RECORDS)))
        self._refuse("record", () if self.record == "text" else ("field",))
        self._refuse("record", () if self.record == "template" else ("template", "learn"))
        self._refuse("record", () if self.record == "lost_in_the_middle" else ("questions",))
        if self.record == "template" and not self.template:
            raise ValueError(
                "record is 'template' but there is no template. Set it, for example to "
                "'{question} {answer}'."
            )

    def _refuse(self, other: str, names: tuple[str, ...]) -> None:
        """Raises if one of the settings `names`, which `other` makes idle, is set."""
        for name in names:
            if getattr(self, name) != idle.default(type(self), name):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} but {other} is {getattr(self, other)!r}, "
                    f"so it has no effect. Leave it out, or set another {other}."
                )

    def _check_reading(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must be in (0, 1].")
        for name in ("max_val_set", "max_chunk_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if not self.epochs > 0:
            raise ValueError(f"epochs is {self.epochs}; it must be positive. inf has no limit.")
        if self.part == "held_out" and not self.max_val_set:
            raise ValueError("part is 'held_out' but max_val_set is 0, so nothing is held out.")
        if self.part == "held_out" and self.fraction != 1:
            raise ValueError(
                f"fraction is {self.fraction} but part is 'held_out', which is read whole. Leave "
                "it out."
            )

    def _check_denoise(self) -> None:
        if not 0 <= self.denoise <= 1:
            raise ValueError(f"denoise is {self.denoise}; it is a share, so it must be in [0, 1].")
        if self.denoise and self.max_chunk_size:
            raise ValueError(
                f"max_chunk_size is {self.max_chunk_size} but denoise is {self.denoise}, and "
                "denoised rows keep no documents apart. Leave one of them out."
            )
        if self.denoise and self.loss == "completion":
            raise ValueError(
                f"loss is 'completion' but denoise is {self.denoise}, and denoised rows have "
                "answers of their own. Leave one of them out."
            )


# What is chosen when a source is read; it changes nothing of what is prepared.
READING = (
    "weight",
    "fraction",
    "max_val_set",
    "part",
    "max_chunk_size",
    "epochs",
    "loss",
    "denoise",
)


def refuse_reading(path: str, source: SourceConfig, names: tuple[str, ...], why: str) -> None:
    """Refuses settings of the source at `path` that have no effect there.

    Raises:
        ValueError: One of `names` is set.
    """
    for name in names:
        if getattr(source, name) != idle.default(type(source), name):
            raise ValueError(
                f"{path}.{name} is {getattr(source, name)!r} but {why}, so it has no effect. "
                "Leave it out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How documents become tokens."""

    add_bos: bool = True  # Put the beginning-of-sequence id before every document.
    add_eos: bool = True  # Put the end-of-sequence id after every document.
    before: str = ""  # Put this text before every document, behind the beginning-of-sequence id.
    # Unreadable documents (broken JSON line, invalid UTF-8): stop at the first with file and line;
    # leave them out and count them by reason; or that, and keep them in quarantine.jsonl.
    on_error: Literal["stop", "skip", "quarantine"] = "stop"
    # A larger share of documents left out for being unreadable stops the job, as does a larger
    # share of bytes in damaged files. Up to 10 documents never do, unless they are over a half.
    largest_skipped_share: float = 0.01

    def __post_init__(self):
        if not 0 < self.largest_skipped_share <= 1:
            raise ValueError(
                f"largest_skipped_share is {self.largest_skipped_share}; it must be in (0, 1]. "
                "To leave nothing out, set on_error to 'stop'."
            )
        default = type(self).__dataclass_fields__["largest_skipped_share"].default
        if self.on_error == "stop" and self.largest_skipped_share != default:
            raise ValueError(
                f"largest_skipped_share is {self.largest_skipped_share} but on_error is 'stop', so "
                "it has no effect. Set on_error to 'skip' or 'quarantine'."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """UL2's denoisers (data/denoise.py), for the rows of sources that have a share of them."""

    # Weights of the three kinds, relative to each other: by default as in U-PaLM (UL2R). UL2 itself
    # is 2, 4 and 1, seven denoisers that are equally frequent.
    regular: float = 1.0  # R: little is missing, in short spans.
    extreme: float = 1.0  # X: half is missing, or long spans.
    sequential: float = 2.0  # S: the rest is missing.
    mode_tokens: bool = True  # A row begins with an id that says which of the three it is.
    sentinels: int = 100  # Ids for the spans of a row; every row has its own 0, 1, 2, ...
    loss: Literal["answers", "all"] = "answers"  # What is predicted: answers, or questions too.

    def __post_init__(self):
        weights = (self.regular, self.extreme, self.sequential)
        if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise ValueError(
                "regular, extreme and sequential must be 0 or more and finite, and one positive; "
                f"they are {', '.join(map(str, weights))}."
            )
        if self.sentinels < 1:
            raise ValueError(f"sentinels is {self.sentinels}; it must be at least 1.")
        if not self.spans and self.sentinels != 100:
            raise ValueError(
                f"sentinels is {self.sentinels} but regular and extreme are 0, so no row has spans "
                "and it has no effect. Leave it 100."
            )

    @property
    def spans(self) -> bool:
        """True if rows have spans, and so sentinels."""
        return bool(self.regular or self.extreme)

    @property
    def added_ids(self) -> int:
        """How many ids stand behind those of the tokenizer."""
        return self.sentinels * self.spans + 3 * self.mode_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The row r of step s is a function of (seed, s, r) and of everything here but the last two."""

    tokenizer: str  # Required. tokenizer.model, tokenizer.json, or a folder holding one of them.
    mixture: dict[str, SourceConfig] = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    sequence_length: int = 4096  # Tokens per row.
    batch_size: int = 8  # Rows per step, over all devices and accumulation steps.
    # "concat" and "segments" cut rows from the concatenated documents: "concat" lets a row attend
    # across documents, "segments" gives each document its own segment id and positions from 0.
    # "first_fit" and "best_fit" do so too, and cut only documents that are longer than a row: whole
    # ones share a row, whose end is padding. "alone" gives each a row of its own.
    packing: Literal["concat", "segments", "first_fit", "best_fit", "alone"] = "concat"
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    # What weights count: rows, tokens (of the stream: padded rows and denoised rows take fewer),
    # documents, or epochs: all 1 reads all sources equally often.
    weight_unit: Literal["sequences", "tokens", "documents", "epochs"] = "sequences"
    # Positive: a source's weight is its number of tokens to the power 1 / temperature. 1 reads all
    # equally often, inf all equally much; 0 uses the weights of the sources.
    temperature: float = 0.0
    shuffle: bool = True  # Another order of rows, cut elsewhere, each epoch; False reads in order.
    threads: int = 2  # Reading ahead; never changes the order.
    prefetch: int = 4  # Steps read ahead; 0 reads when asked.

    def __post_init__(self):
        for name in ("sequence_length", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}; it must be 0 or more.")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more.")
        if self.temperature and self.weight_unit == "epochs":
            raise ValueError(
                f"weight_unit is 'epochs' but temperature is {self.temperature}, which makes "
                "weights of tokens. Leave one of them out."
            )
        for name, source in self.mixture.items():
            self._check_member(f"mixture.{name}", source)
        if self.denoise != DenoiseConfig() and not self._denoises:
            raise ValueError(
                "denoise is set but no source of the mixture has a share of denoised rows, so it "
                "has no effect. Set denoise of a source too."
            )

    @property
    def _denoises(self) -> bool:
        return any(source.denoise for source in self.mixture.values())

    @property
    def added_ids(self) -> int:
        """How many ids the model needs behind those of the tokenizer."""
        return self.denoise.added_ids if self._denoises else 0

    def _check_member(self, path: str, source: SourceConfig) -> None:
        if source.part == "held_out":
            raise ValueError(f"{path}.part is 'held_out', which is kept from training. Leave it.")
        if source.max_chunk_size and self.packing == "concat":
            raise ValueError(
                f"{path}.max_chunk_size is {source.max_chunk_size} but packing is 'concat', which "
                "keeps no documents apart, so it has no effect. Leave it out, or set packing."
            )
        if source.denoise and self.packing != "concat":
            raise ValueError(
                f"packing is {self.packing!r} but {path}.denoise is {source.denoise}, and a "
                "denoised row is one question over all documents in it. Set packing to 'concat'."
            )
        if self.temperature and source.weight != 1.0:
            raise ValueError(
                f"{path}.weight is {source.weight} but temperature is {self.temperature}, so it "
                "has no effect. Leave one of them out."
            )
