"""Low-rank adapters over a frozen base (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

import dataclasses
import fnmatch
import math
from typing import Literal

from llama_jax.config.model import Dtype

# What adapters can be put on; the head is computed in chunks by the loss, without them.
ADAPTABLE = (
    "attention/q",
    "attention/k",
    "attention/v",
    "attention/o",
    "mlp/gate",
    "mlp/up",
    "mlp/down",
    "embed",
)
Quantization = Literal["none", "int8", "nf4"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """y = W x + scale b a dropout(x), where a and b alone are trained; r = 0 trains W instead.

    The base W, every other parameter too, is that of `init_from` and stays as it is, in
    compute.param_dtype or quantized.
    """

    r: int = 0  # Rank of the adapters; 0: none.
    # Patterns of ADAPTABLE: "attention/*", "mlp/*", "embed". Default as in PEFT: q and v.
    targets: tuple[str, ...] = ("attention/q", "attention/v")
    alpha: float = 8.0  # scale = alpha / r
    rank_stabilized: bool = False  # scale = alpha / sqrt(r) (https://arxiv.org/abs/2312.03732).
    dropout: float = 0.0  # Of what goes into a; not of embeddings.
    dtype: Dtype = "float32"  # How adapters are stored.
    # Adapters to start from: a PEFT folder or a run of adapters. "" draws a and makes b zero.
    init_from: str = ""
    # How the layers' matrices of the base are stored: 8 bits, or 4 (https://arxiv.org/abs/2305.14314).
    quantization: Quantization = "none"
    double_quantization: bool = True  # The scales of 64 weights too: 8 bits, not 32.

    def __post_init__(self):
        if self.r < 0:
            raise ValueError(f"r is {self.r}; it must be at least 1, or 0 for no adapters.")
        self._refuse_ignored()
        for pattern in self.targets:
            if pattern == "head":
                raise ValueError(
                    "targets holds 'head', which the loss multiplies in chunks, without adapters. "
                    f"Leave it out; targets are patterns of {', '.join(ADAPTABLE)}."
                )
            if not fnmatch.filter(ADAPTABLE, pattern):
                raise ValueError(
                    f"targets holds {pattern!r}, which matches none of {', '.join(ADAPTABLE)}."
                )
        if self.r and not self.targets:
            raise ValueError("targets is empty; name at least one, e.g. 'attention/*'.")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}; it must be positive.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1).")
        if self.dropout and self.adapted == ("embed",):
            raise ValueError("dropout is set but only embed is adapted, which has none.")

    def _refuse_ignored(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not self.r and value != field.default:
                raise ValueError(
                    f"{field.name} is {value!r} but r is 0, so it has no effect. Set r, e.g. 8."
                )
        if self.quantization == "none" and not self.double_quantization:
            raise ValueError(
                "double_quantization is False but quantization is 'none', so it has no effect. "
                "Leave it True."
            )

    @property
    def adapted(self) -> tuple[str, ...]:
        """What has adapters, in the order of ADAPTABLE."""
        if not self.r:
            return ()
        return tuple(n for n in ADAPTABLE if any(fnmatch.fnmatchcase(n, p) for p in self.targets))

    @property
    def scale(self) -> float:
        """Factor of b a."""
        return self.alpha / (math.sqrt(self.r) if self.rank_stabilized else self.r)
