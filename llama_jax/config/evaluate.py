"""Held-out evaluation: inside a training run, and of finished checkpoints."""

import dataclasses
from dataclasses import field

from llama_jax.config.data import SourceConfig, TextConfig, refuse_reading
from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig
from llama_jax.config.rope import RopeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatorConfig:
    """Token-weighted loss and perplexity of held-out rows, also by position."""

    source: SourceConfig = field(default_factory=lambda: SourceConfig(path=""))
    sequence_length: int = 4096  # Tokens per row.
    rows: int = 64  # Rows read, from the start of the source; -1 reads all.
    batch_size: int = 8
    buckets: int = 8  # Perplexity is also reported for this many equal parts of the row.
    loss_chunk: int = 1024  # Tokens whose logits exist at the same time.

    def __post_init__(self):
        for name in ("sequence_length", "batch_size", "buckets", "loss_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.rows < 1 and self.rows != -1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1, or -1 for all.")
        if self.sequence_length % self.buckets:
            raise ValueError(
                f"buckets is {self.buckets}; it must divide sequence_length "
                f"({self.sequence_length})."
            )
        why = "an evaluator reads its rows once, in one row of positions"
        refuse_reading("source", self.source, ("weight", "max_chunk_size", "epochs"), why)
        refuse_reading("source", self.source, ("denoise",), "held-out rows are read as they are")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectConfig:
    """One checkpoint under evaluation, as it was trained or with another position setting."""

    checkpoint: str  # Required. A run directory, a converted folder, or a Hugging Face folder.
    step: int = -1  # Of a run directory; -1 is the newest.
    adapter: str = ""  # A run of adapters or a PEFT folder, merged into the checkpoint.
    # Another context and position setting than the checkpoint's own; context 0 keeps its own.
    context: int = 0
    rope: RopeConfig = field(default_factory=RopeConfig)

    def __post_init__(self):
        if self.step < -1:
            raise ValueError(f"step is {self.step}; it must be a step, or -1 for the newest.")
        if self.context < 0:
            raise ValueError(f"context is {self.context}; it must be positive, or 0 to keep it.")
        if self.context == 0 and self.rope != RopeConfig():
            raise ValueError("rope is set but context is 0, so it has no effect. Set context too.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """`python -m llama_jax.evaluate`: every subject on every evaluator."""

    workdir: str  # Required: results and pictures go here.
    tokenizer: str = ""  # Default: the first subject's own.
    subjects: dict[str, SubjectConfig] = field(default_factory=dict)
    evaluators: dict[str, EvaluatorConfig] = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        if not self.subjects or not self.evaluators:
            raise ValueError("subjects and evaluators must each name at least one.")
        for name in self.evaluators:
            if "/" in name:  # It becomes a part of a file's name.
                raise ValueError(f"evaluators holds the name {name!r}; it must not contain '/'.")
        if self.mesh.context != 1:
            raise ValueError(
                f"mesh.context is {self.mesh.context}; evaluation splits no sequence. Set "
                "mesh.context to 1, and mesh.fsdp or mesh.data to more."
            )
        if self.compute.context_parallel != "auto":
            raise ValueError(
                f"compute.context_parallel is {self.compute.context_parallel!r}; evaluation splits "
                "no sequence, so it has no effect. Leave it 'auto'."
            )
