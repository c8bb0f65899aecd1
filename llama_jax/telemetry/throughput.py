"""How fast a run is: tokens, operations and their share of what the devices can do."""

import dataclasses

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ModelConfig
from llama_jax.telemetry import flops, hardware


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput:
    """Turns tokens and seconds into metrics for one model on a number of equal devices."""

    model: ModelConfig
    sequence_length: int
    devices: int  # Of the whole run.
    device_kind: str  # jax.devices()[0].device_kind
    lora: LoraConfig | None = None  # What is trained instead of the whole model.

    def metrics(self, *, tokens: float, seconds: float) -> dict[str, float]:
        """Returns throughput/* of `tokens` trained in `seconds`.

        `tokens` counts every position computed, padding too. MFU, achieved over peak operations
        per second, is absent where the peak is unknown.
        """
        per_device = tokens / seconds / self.devices
        values = {
            "throughput/tokens_per_second": tokens / seconds,
            "throughput/tokens_per_second_per_device": per_device,
        }
        chip = hardware.chip(self.device_kind)
        conventions: tuple[flops.Convention, ...] = ("causal", "full")
        for convention in conventions:
            needed = flops.per_token(self.model, self.sequence_length, convention, self.lora)
            achieved = per_device * needed
            values[f"throughput/tflops_per_device_{convention}"] = achieved / 1e12
            if chip is not None:
                values[f"throughput/mfu_{convention}"] = achieved / chip.peak_flops
        return values
