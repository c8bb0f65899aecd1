"""How the loss is scaled where gradients are float16."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossScaleConfig:
    """Read if compute.dtype is "float16". The defaults are OpenChatKit's but for the last one."""

    initial: float = 2.0**15
    growth_steps: int = 1000  # Finite steps in a row after which it doubles.
    hysteresis: int = 2  # The overflow that first halves it: 1 is the first, 2 the second.
    smallest: float = 1.0
    # True: overflows in a row are counted, and a finite step starts the count again. False: those
    # since it last grew are, as OpenChatKit and Megatron-LM do, so that a single overflow halves
    # it ever after the first.
    consecutive_hysteresis: bool = True

    def __post_init__(self):
        if not 2.0**-100 <= self.smallest <= self.initial <= 2.0**100:
            raise ValueError(
                f"smallest is {self.smallest} and initial {self.initial}; they must be in "
                "[2^-100, 2^100], which float32 holds, the first no more than the second."
            )
        for name in ("growth_steps", "hysteresis"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.hysteresis == 1 and not self.consecutive_hysteresis:
            raise ValueError(
                "consecutive_hysteresis is False but hysteresis is 1, so it has no effect. Leave "
                "it out."
            )
