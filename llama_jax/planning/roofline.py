"""How fast a step can be at best: work / rate for each part of a device, and the slowest wins.

    step time >= max(FLOPs / peak, bytes / memory bandwidth, bytes / link bandwidth for each link)

The maximum is reached if everything overlaps, the sum if nothing does. Williams et al. 2009,
https://doi.org/10.1145/1498765.1498785. MFU is the model's FLOPs / (step time x peak): without
recomputation, with attention counted causally (telemetry/flops.py).
"""

import dataclasses
from collections.abc import Sequence

from llama_jax.config.train import TrainConfig
from llama_jax.planning.collectives import Collective
from llama_jax.telemetry import flops
from llama_jax.telemetry.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Work:
    """Floating-point operations of one step, on one device."""

    model: float  # What the model needs: 6 N_mm + attention per token.
    recomputed: float  # What the backward pass repeats.
    tokens: float  # Tokens of one step / devices.


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a device at work."""

    name: str  # "compute", "HBM", "ICI", "DCN", "NVLink", "IB"
    amount: float  # Operations or bytes.
    rate: float  # Of them, per second; of a link, the mean over what was sent.
    seconds: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The bounds on one step."""

    terms: tuple[Term, ...]
    bound: str  # Name of the longest term.
    step_seconds: float  # If all overlaps.
    serial_seconds: float  # If nothing does.
    mfu: float  # At step_seconds.
    tokens_per_second: float  # Per device, at step_seconds.


def train_work(config: TrainConfig, devices: int) -> Work:
    """Returns the operations of one optimizer step, spread evenly over the devices."""
    length = config.data.sequence_length
    tokens = config.data.batch_size * length / devices
    return Work(
        model=tokens * flops.per_token(config.model, length, "causal", config.lora),
        recomputed=tokens
        * flops.recomputed_per_token(config.model, config.compute, length, "causal"),
        tokens=tokens,
    )


def decode_work(config: TrainConfig, rows: int, devices: int) -> Work:
    """Returns the operations of one more token in each row, with a full cache."""
    per_token = flops.per_decoded_token(config.model, config.data.sequence_length)
    return Work(model=rows * per_token / devices, recomputed=0.0, tokens=rows / devices)


def roofline(
    work: Work, memory_bytes: int, collectives: Sequence[Collective], chip: Chip
) -> Roofline:
    """Returns the bounds of a step on a chip whose rates are known."""
    assert chip.memory_bandwidth is not None
    operations = work.model + work.recomputed
    terms = [
        Term("compute", operations, chip.peak_flops, operations / chip.peak_flops),
        Term("HBM", memory_bytes, chip.memory_bandwidth, memory_bytes / chip.memory_bandwidth),
    ]
    for link in sorted({found.link for found in collectives}):
        terms.append(_link(link, [found for found in collectives if found.link == link]))
    longest = max(terms, key=lambda term: term.seconds)
    return Roofline(
        terms=tuple(terms),
        bound=longest.name,
        step_seconds=longest.seconds,
        serial_seconds=sum(term.seconds for term in terms),
        mfu=work.model / (longest.seconds * chip.peak_flops),
        tokens_per_second=work.tokens / longest.seconds,
    )


def _link(name: str, collectives: Sequence[Collective]) -> Term:
    amount = sum(found.bytes for found in collectives)
    seconds = sum(found.seconds or 0.0 for found in collectives)
    return Term(name, amount, amount / seconds if seconds else 0.0, seconds)
