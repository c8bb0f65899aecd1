"""`python -m llama_jax.prepare`: train a tokenizer, tokenise documents, hold some out."""

import dataclasses
from dataclasses import field
from typing import Literal

from llama_jax.config import chat
from llama_jax.config.building import BuildConfig
from llama_jax.config.chat import ChatConfig
from llama_jax.config.cleaning import DecontaminateConfig, DedupConfig, FilterConfig
from llama_jax.config.data import READING, SourceConfig, TextConfig, refuse_reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """A sentencepiece BPE with Llama 2's settings: no normalisation, digits, byte fallback."""

    vocab: int = 32_000
    megabytes: float = 10.0  # Text it is trained on, drawn over all documents.

    def __post_init__(self):
        if self.vocab < 300:
            raise ValueError(f"vocab is {self.vocab}; 259 are taken by bytes, so use 300 or more.")
        if not self.megabytes > 0:
            raise ValueError(f"megabytes is {self.megabytes}; it must be positive.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where the work is done. Never changes one byte of what is written."""

    # "process" is this one, one part after the other; the others are datatrove's executors
    # (pip install -e '.[data]'): processes of this machine, jobs of a Slurm cluster, tasks of a Ray
    # cluster.
    kind: Literal["process", "local", "slurm", "ray"] = "process"
    workers: int = 1  # Parts that are made at the same time.
    part_megabytes: float = 256.0  # Files that are handled together: about so much, one at least.
    slurm_partition: str = ""
    slurm_time: str = ""  # Of one part, as sbatch takes it: "4:00:00".
    memory_gigabytes: int = 4  # That Slurm and Ray set aside for each part.

    def __post_init__(self):
        if self.workers < 1 or self.memory_gigabytes < 1:
            raise ValueError("workers and memory_gigabytes must be at least 1.")
        if not self.part_megabytes > 0:
            raise ValueError(f"part_megabytes is {self.part_megabytes}; it must be positive.")
        if self.kind == "process" and self.workers > 1:
            raise ValueError(
                f"workers is {self.workers} but kind is 'process', which is one. Set kind to "
                "'local'."
            )
        if self.kind == "slurm" and not (self.slurm_partition and self.slurm_time):
            raise ValueError("kind is 'slurm'; set slurm_partition and slurm_time, as for sbatch.")
        if self.kind != "slurm" and (self.slurm_partition or self.slurm_time):
            raise ValueError(
                f"slurm_partition or slurm_time is set but kind is {self.kind!r}, so it has no "
                "effect. Set kind to 'slurm', or leave them out."
            )
        if self.kind not in ("slurm", "ray") and self.memory_gigabytes != 4:
            raise ValueError(
                f"memory_gigabytes is {self.memory_gigabytes} but kind is {self.kind!r}, which "
                "sets none aside, so it has no effect. Leave it out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareSourceConfig(SourceConfig):
    """A source, and which of its documents are kept, in what form."""

    latex: bool = False  # LaTeX becomes text, with the abstract after the paper.
    chat: ChatConfig = field(default_factory=ChatConfig)  # For records that are conversations.
    filters: FilterConfig = field(default_factory=FilterConfig)
    deduplicate: DedupConfig = field(default_factory=DedupConfig)
    build: BuildConfig = field(default_factory=BuildConfig)  # Of what was kept.
    # So many documents are written for training, exactly, drawn by the seed; 0 writes all.
    documents: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.documents < 0:
            raise ValueError(f"documents is {self.documents}; it must be 0 or more.")
        self.build.check_record(self.record)
        if self.chat.template and self.record not in chat.RECORDS:
            raise ValueError(
                f"record is {self.record!r} but chat.template is {self.chat.template!r}, which "
                f"needs conversations. Set record to one of {', '.join(map(repr, chat.RECORDS))}."
            )
        if self.chat.template and self.build.kind in ("ul2", "fewshot"):
            raise ValueError(
                f"chat.template is {self.chat.template!r} but build.kind is {self.build.kind!r}, "
                "which makes texts, not conversations. Leave one of them out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Writes output/tokenizer, and output/NAME/{train, held_out} for each source."""

    output: str  # Required. Folder that is written; must not exist, or hold the same recipe.
    sources: dict[str, PrepareSourceConfig] = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    # "train" makes a tokenizer from the documents, "use" takes the one at `tokenizer`.
    tokenizer_from: Literal["train", "use"] = "train"
    tokenizer: str = ""
    tokenizer_training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)
    # Special tokens that the tokenizer shall have; those that it lacks get ids after its last.
    added_tokens: tuple[str, ...] = ()
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    held_out: float = 0.02  # Share of whole documents that never reach training, chosen by seed.
    # Writes the documents of a source in an order that the seed decides: training shuffles rows,
    # and a document would have the neighbours that it has in its file.
    shuffle: bool = True
    seed: int = 0
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources is empty; name at least one, e.g. sources.books.path.")
        for name in self.sources:
            if "/" in name or name.startswith(".") or name in ("tokenizer", "", "recipe.json"):
                raise ValueError(f"sources holds the name {name!r}; it must be a folder's name.")
        for name, source in self.sources.items():
            why = "it is chosen when a prepared folder is read"
            refuse_reading(f"sources.{name}", source, READING, why)
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be in [0, 1).")
        if (self.tokenizer_from == "use") != bool(self.tokenizer):
            raise ValueError(
                f"tokenizer_from is {self.tokenizer_from!r} and tokenizer is {self.tokenizer!r}; "
                "'use' needs a tokenizer, and 'train' would ignore one."
            )
