"""Everything a training run can be told."""

import dataclasses
from dataclasses import field
from typing import Literal

from llama_jax.config.data import DataConfig
from llama_jax.config.evaluate import EvaluatorConfig
from llama_jax.config.idle import default, refuse_idle
from llama_jax.config.lora import LoraConfig
from llama_jax.config.loss_scale import LossScaleConfig
from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.config.model import ComputeConfig, Dtype, ModelConfig
from llama_jax.config.optim import OptimConfig

AddedRows = Literal["mean", "normal"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Chunked cross-entropy: logits of [B, T, V] are never materialised."""

    chunk: int = 1024  # Tokens whose logits exist at the same time.
    z_loss: float = 0.0  # Times mean(log Z squared); keeps logits near 0 (PaLM, 1e-4).
    # The gradient is that of the mean over tokens, or of the sum of the rows' means, as OpenChatKit
    # has it with micro-batches of one row: before clipping it is larger by the number of rows.
    reduction: Literal["mean", "sum_of_rows"] = "mean"

    def __post_init__(self):
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1.")
        if self.z_loss < 0:
            raise ValueError(f"z_loss is {self.z_loss}; it must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, what to keep, how strictly to restore."""

    every: int = 1000  # Steps; the last step and a preempted one are always saved.
    keep_last: int = 3  # Newest checkpoints that are kept; at least 2.
    keep_every: int = 0  # Also keep steps that are multiples of this; 0 keeps none for ever.
    verify: bool = True  # Compare each array's fingerprint at restore.
    max_fallback: int = 2  # Bad checkpoints set aside before giving up.

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1.")
        if self.keep_last < 2:
            raise ValueError(
                f"keep_last is {self.keep_last}; it must be at least 2, so that one good "
                "checkpoint remains when the newest is found bad."
            )
        if self.keep_every < 0 or self.max_fallback < 0:
            raise ValueError("keep_every and max_fallback must be 0 or more.")

    def due(self, done: int, steps: int) -> bool:
        """True if the state after `done` of `steps` steps is to be saved."""
        return done % self.every == 0 or done == steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out evaluation while training."""

    every: int = 0  # Steps; 0 never evaluates. The last step is evaluated too.
    evaluators: dict[str, EvaluatorConfig] = field(default_factory=dict)
    # The evaluator whose lowest loss is saved at once, and kept however old it gets.
    best: str = ""
    # Ends the run after so many evaluations in a row without a lower loss of `best`; 0 never.
    patience: int = 0

    def __post_init__(self):
        if self.every < 0:
            raise ValueError(f"every is {self.every}; it must be 0 or more.")
        if self.evaluators and not self.every:
            raise ValueError("evaluators are named but every is 0, so they never run. Set every.")
        if self.every and not self.evaluators:
            raise ValueError(f"every is {self.every} but no evaluators are named. Name one.")
        if self.best and self.best not in self.evaluators:
            names = ", ".join(map(repr, self.evaluators)) or "none"
            raise ValueError(f"best is {self.best!r}; it must be one of the evaluators: {names}.")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}; it must be 0 or more.")
        if self.patience and not self.best:
            raise ValueError(
                f"patience is {self.patience} but best is '', so it has no effect. Set best to the "
                "name of an evaluator."
            )

    def due(self, done: int, steps: int) -> bool:
        """True if the state after `done` of `steps` steps is to be evaluated."""
        return bool(self.every) and (done % self.every == 0 or done == steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where numbers go. metrics.jsonl and TensorBoard are always written."""

    every: int = 10  # Steps between two lines of metrics; each covers the steps since the last.
    wandb_project: str = ""  # Also log to this Weights & Biases project (pip install wandb).

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A trace of some steps for xprof / TensorBoard, written to workdir/profile."""

    first: int = 10  # First traced step; 10 leaves compilation out.
    steps: int = 0  # How many; 0 traces nothing.

    def __post_init__(self):
        if self.first < 0 or self.steps < 0:
            raise ValueError("first and steps must be 0 or more.")
        if self.first != 10 and not self.steps:
            raise ValueError(f"first is {self.first} but steps is 0, so nothing is traced.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """Seconds without progress before every thread's stack is printed and the run exits 75."""

    compile: float = 1800.0
    step: float = 600.0
    data: float = 600.0
    checkpoint: float = 1800.0

    def __post_init__(self):
        for name, seconds in dataclasses.asdict(self).items():
            if not seconds > 0:
                raise ValueError(f"{name} is {seconds}; it must be positive. inf never fires.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How long the processes of a run wait for each other; a process alone waits for nobody."""

    start: float = 300.0  # Seconds in which all must have started.
    silence: float = 100.0  # Seconds without a sign of life after which one is given up.

    def __post_init__(self):
        for name, seconds in dataclasses.asdict(self).items():
            if not 1 <= seconds < float("inf"):
                raise ValueError(f"{name} is {seconds}; it must be a number of seconds, 1 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`python -m llama_jax.train`. The same workdir continues where it stopped."""

    workdir: str  # Required: checkpoints, metrics and the resolved settings go here.
    model: ModelConfig
    data: DataConfig
    seed: int = 0
    # Another run: ten short steps of a tiny model, to see that a recipe and its data work (toy.py).
    toy: bool = False
    steps: int = 1000  # Optimizer steps.
    # Instead of steps: so many rows as all sources have, times this, over data.batch_size, rounded
    # down. With data.weight_unit="epochs" every source is read so often.
    epochs: float = 0.0
    # Starts from these weights: a run directory, a converted folder, or a Hugging Face folder.
    init_from: str = ""
    # What tokens get that init_from has no rows for (model.vocab is larger, or the tokenizer has
    # other names): the mean of its rows, or what an untrained model has. Rows move with the names
    # of their tokens.
    added_rows: AddedRows = "mean"
    # Continue a run of this workdir although settings that decide results, or the data, differ.
    accept_changes: bool = False
    accumulate: int = 1  # Micro-batches per step; the result equals one large batch.
    accumulate_dtype: Dtype = "float32"  # Of the summed gradients.
    # Steps in a row whose loss or gradient may be non-finite (each is skipped) before stopping.
    max_skipped: int = 10
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self):
        self._check_length()
        self._check_data()
        self._check_contexts()
        self._check_reduction()
        self._check_optimizer()
        self._check_packing()
        self._check_lora()

    def _check_length(self) -> None:
        if self.steps < 1 or self.accumulate < 1 or self.max_skipped < 1:
            raise ValueError("steps, accumulate and max_skipped must be at least 1.")
        if not 0 <= self.epochs < float("inf"):
            raise ValueError(f"epochs is {self.epochs}; it must be 0 or more, and finite.")
        if self.epochs and self.steps != default(self, "steps"):
            raise ValueError(
                f"steps is {self.steps} but epochs is {self.epochs}, which decides their number. "
                "Leave one of them out."
            )

    def _check_data(self) -> None:
        if not self.data.mixture:
            raise ValueError("data.mixture is empty; name at least one source to train on.")
        if not self.init_from:
            refuse_idle(self, ("added_rows",), "init_from is ''")
        if self.data.batch_size % self.accumulate:
            raise ValueError(
                f"data.batch_size is {self.data.batch_size}; it must be a multiple of "
                f"accumulate ({self.accumulate})."
            )
        if self.accumulate == 1:
            refuse_idle(self, ("accumulate_dtype",), "accumulate is 1")

    def _check_contexts(self) -> None:
        lengths = {"data": self.data.sequence_length}
        for name, evaluator in self.evaluation.evaluators.items():
            lengths[f"evaluation.evaluators.{name}"] = evaluator.sequence_length
        for path, length in lengths.items():
            if length > self.model.context:
                raise ValueError(too_long(f"{path}.sequence_length", length, self.model))

    def _check_optimizer(self) -> None:
        if self.optim.clip_stages and self.model.layers % self.optim.clip_stages:
            raise ValueError(
                f"optim.clip_stages is {self.optim.clip_stages}; it must divide model.layers "
                f"({self.model.layers})."
            )
        if self.optim.schedule != "constant" and self.optim.warmup_steps >= self.steps:
            raise ValueError(
                f"optim.warmup_steps is {self.optim.warmup_steps}; it must be below steps "
                f"({self.steps})."
            )
        if self.compute.dtype != "float16":
            names = tuple(LossScaleConfig.__dataclass_fields__)
            because = f"compute.dtype is {self.compute.dtype!r}"
            refuse_idle(self.loss_scale, names, because, "loss_scale.")

    def _check_packing(self) -> None:
        packing = self.data.packing
        if packing != "concat" and self.compute.attention == "cudnn":
            raise ValueError(
                f"data.packing is {packing!r} but compute.attention is 'cudnn', which lets "
                "documents of a row see each other. Set compute.attention to 'auto', or packing to "
                "'concat'."
            )
        if packing != "concat" and self.model.rope.scaling == "dynamic":
            raise ValueError(
                f"data.packing is {packing!r} but model.rope.scaling is 'dynamic', whose angles "
                "depend on the length of the whole row. Use another scaling, or packing 'concat'."
            )

    def _check_lora(self) -> None:
        if not self.lora.r:
            return
        if not self.init_from:
            raise ValueError(
                f"lora.r is {self.lora.r} but init_from is empty: adapters adapt weights that are "
                "there. Set init_from."
            )
        if self.model.tie_embeddings and "embed" in self.lora.adapted:
            raise ValueError(
                "lora.targets holds 'embed' but model.tie_embeddings is set: the head would stay "
                "as it is, and merged weights would change it. Leave 'embed' out."
            )

    def _check_reduction(self) -> None:
        if self.loss.reduction == "mean":
            return
        sources = self.data.mixture.values()
        whole = all(source.loss == "all" and not source.denoise for source in sources)
        if self.data.packing != "concat" or not whole:
            raise ValueError(
                "loss.reduction is 'sum_of_rows', for which every row must have as many targets. "
                "Set data.packing to 'concat', and loss='all' and no denoise in data.mixture."
            )


def too_long(path: str, length: int, model: ModelConfig) -> str:
    """Returns the sentence for a sequence that the position setting does not reach."""
    factor = -(-length // model.context) * model.rope.factor
    return (
        f"{path} is {length} but the model reads at most {model.context} tokens. To extend it by "
        f"position interpolation set model.context={length}, model.rope.scaling='linear' and "
        f"model.rope.factor={factor}."
    )
