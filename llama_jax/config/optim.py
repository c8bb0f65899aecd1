"""The optimizer: AdamW, its schedule, what it leaves alone."""

import dataclasses
from typing import Literal

from llama_jax.config.idle import refuse_idle
from llama_jax.config.model import Dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019) after clipping by norm. Defaults are Llama 2's."""

    learning_rate: float = 3e-4  # Peak.
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0  # Linear, from warmup_start * learning_rate.
    warmup_start: float = 0.0
    final_fraction: float = 0.1  # Last learning rate / peak, for cosine and linear.
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-5
    first_moment_dtype: Dtype = "float32"  # bfloat16 saves 2 bytes per parameter.
    weight_decay: float = 0.1  # Decoupled; multiplied by the learning rate.
    # Parameters that are not decayed: any whose path contains one of these words.
    no_decay: tuple[str, ...] = ("scale", "bias")
    clip: float = 1.0  # Largest gradient norm; inf never clips.
    # 0 clips by the norm of all gradients. Else the model is cut into so many runs of layers, and
    # each is clipped by its own norm, decayed and other parameters apart, as OpenChatKit's pipeline
    # does: 8 for its 7B scripts.
    clip_stages: int = 0

    def __post_init__(self):
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive.")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be 0 or more.")
        if not 0 <= self.warmup_start <= 1:
            raise ValueError(f"warmup_start is {self.warmup_start}; it must be in [0, 1].")
        if self.warmup_start and not self.warmup_steps:
            raise ValueError(
                f"warmup_start is {self.warmup_start} but warmup_steps is 0, so it has no effect. "
                "Set warmup_steps."
            )
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction is {self.final_fraction}; it must be in [0, 1].")
        if self.schedule == "constant" and self.final_fraction != 0.1:
            raise ValueError(
                f"final_fraction is {self.final_fraction} but schedule is 'constant', so it has "
                "no effect. Set schedule to 'cosine' or 'linear'."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; it must be two numbers in [0, 1).")
        if self.eps <= 0:
            raise ValueError(f"eps is {self.eps}; it must be positive.")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more.")
        if not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; it must be positive. inf never clips.")
        if self.clip_stages < 0:
            raise ValueError(f"clip_stages is {self.clip_stages}; it must be 0 or more.")
        if self.clip == float("inf"):
            refuse_idle(self, ("clip_stages",), "clip is inf")
