"""How positions turn heads, and how that is stretched past the pretrained context."""

import dataclasses
from typing import Literal

# Settings that only some scalings read; any other value than the default is refused elsewhere.
READ_ONLY_BY = {
    "original_context": ("dynamic", "yarn", "llama3"),
    "beta_fast": ("yarn",),
    "beta_slow": ("yarn",),
    "truncate": ("yarn",),
    "attention_factor": ("yarn",),
    "mscale": ("yarn",),
    "mscale_all_dim": ("yarn",),
    "low_freq_factor": ("llama3",),
    "high_freq_factor": ("llama3",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: base frequency, and how it is stretched to longer contexts."""

    theta: float = 10_000.0
    scaling: Literal["none", "linear", "ntk", "dynamic", "yarn", "llama3"] = "none"
    factor: float = 1.0  # Target context / pretrained context (ntk: alpha).
    original_context: int | None = None  # Pretrained context in tokens: dynamic, yarn, llama3.
    beta_fast: float = 32.0  # yarn: pairs turning more often than this stay as they are.
    beta_slow: float = 1.0  # yarn: pairs turning less often than this are interpolated in full.
    truncate: bool = True  # yarn: round the two borders to whole pairs.
    attention_factor: float | None = None  # yarn: multiplies cos and sin; None is 0.1 ln(factor)+1.
    mscale: float | None = None  # yarn: both set give m(mscale) / m(mscale_all_dim) (DeepSeek).
    mscale_all_dim: float | None = None
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3

    def __post_init__(self):
        if self.theta <= 0:
            raise ValueError(f"theta is {self.theta}; it must be positive (10000 for Llama 2).")
        if not 1 <= self.factor < float("inf"):
            raise ValueError(
                f"factor is {self.factor}; scaling only lengthens the context, so use factor >= 1."
            )
        if self.scaling == "none" and self.factor != 1:
            raise ValueError(
                f"factor is {self.factor} but scaling is 'none', so it has no effect. Set scaling."
            )
        self._refuse_ignored()
        if self.scaling in READ_ONLY_BY["original_context"] and not self.original_context:
            raise ValueError(
                f"scaling is {self.scaling!r}, which needs original_context (4096 for Llama 2)."
            )
        if self.original_context is not None and self.original_context < 1:
            raise ValueError(f"original_context is {self.original_context}; it must be >= 1.")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor is {self.low_freq_factor}; it must be positive and below "
                f"high_freq_factor ({self.high_freq_factor})."
            )
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow is {self.beta_slow}; it must be positive and below "
                f"beta_fast ({self.beta_fast})."
            )
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim only act together; set both or neither.")

    def _refuse_ignored(self):
        for field in dataclasses.fields(self):
            readers = READ_ONLY_BY.get(field.name, (self.scaling,))
            if self.scaling not in readers and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)} but scaling is "
                    f"{self.scaling!r}, so it has no effect. Only {' and '.join(readers)} read it."
                )
