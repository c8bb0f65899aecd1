"""The smallest change that fits, found by really compiling candidates in a stated order.

1. compute.remat: the next policies that keep less
2. accumulate: twice as many micro-batches, down to one row per device that splits rows
3. data devices moved to fsdp
4. remat "full" together with the most micro-batches
5. the same, with 2, 4, 8 devices moved from fsdp to context, then to tensor

The first that fits is printed as flags. What the state alone rules out is not compiled.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from llama_jax.config.train import TrainConfig
from llama_jax.planning import plan as planning
from llama_jax.planning.plan import Plan
from llama_jax.telemetry import progress
from llama_jax.telemetry.hardware import GIB

REMAT = ("none", "minimal", "attention", "full", "offload")
Change = dict[str, Any]  # Dotted path -> value.


@dataclasses.dataclass(frozen=True)
class Trial:
    """A change and what became of it."""

    change: Change
    peak: int
    fits: bool
    note: str  # Why it could not be tried; "" if it was.

    @property
    def flags(self) -> str:
        """Returns the change as it is typed."""
        return " ".join(f"--config.{path}={value}" for path, value in self.change.items())


@dataclasses.dataclass(frozen=True)
class Advice:
    """What was tried, in order; the last fits, or nothing does."""

    trials: tuple[Trial, ...]
    reason: str  # Why nothing was tried, or "".

    @property
    def best(self) -> Trial | None:
        """Returns the first change that fits."""
        return next((trial for trial in self.trials if trial.fits), None)

    def text(self) -> str:
        """Returns what a person is shown."""
        lines = [f"  {_peak(trial)}  {trial.flags}" for trial in self.trials]
        if lines:
            lines.insert(0, "Tried, in this order (GiB at the peak):")
        if self.reason:
            lines.append(self.reason)
        elif self.best:
            lines.append(f"The smallest change that fits: {self.best.flags}")
        else:
            lines.append("Nothing that was tried fits. Plan for more devices, or larger ones.")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Returns {"trials": [...], "best": flags or None, "reason": ...}."""
        return {
            "trials": [dataclasses.asdict(trial) | {"flags": trial.flags} for trial in self.trials],
            "best": self.best and self.best.flags,
            "reason": self.reason,
        }


def search(config: TrainConfig, made: Plan, decode: bool = False) -> Advice:
    """Returns the first change to `config`, whose plan does not fit, that does."""
    changes = list(candidates(config, made.mesh, decode))
    usable = made.memory.usable or 0
    state = made.memory.parameters + made.memory.optimizer
    if state > usable and made.mesh["data"] == 1:
        return Advice(
            (),
            f"Parameters and optimizer alone are {state / GIB:.2f} GiB of {usable / GIB:.2f}, and "
            "all devices split them already: no setting helps. Plan for at least "
            f"{math.ceil(made.topology.count * state / usable)} devices.",
        )
    trials = []
    for change in progress.counted(changes, "compiling candidates"):
        trials.append(_try(config, made, change, decode))
        if trials[-1].fits:
            break
    return Advice(tuple(trials), "")


def candidates(config: TrainConfig, mesh: dict[str, int], decode: bool) -> Iterator[Change]:
    """Yields changes in the order of this module's docstring."""
    lean: Change = {}
    if not decode:
        lean = _lean(config, mesh)
        for policy in REMAT[REMAT.index(config.compute.remat) + 1 :]:
            yield {"compute.remat": policy}
        for accumulate in _doubled(config.accumulate, _most(config, mesh)):
            yield {"accumulate": accumulate}
    if mesh["data"] > 1:
        yield {"mesh.data": 1, "mesh.fsdp": mesh["fsdp"] * mesh["data"]}
        lean |= {"mesh.data": 1, "mesh.fsdp": mesh["fsdp"] * mesh["data"]}
    if len(lean) > 1:
        yield lean
    fsdp = lean.get("mesh.fsdp", mesh["fsdp"])
    for axis in ("context", "tensor"):
        for more in (2, 4, 8):
            if fsdp % more == 0:
                change = lean | {f"mesh.{axis}": mesh[axis] * more, "mesh.fsdp": fsdp // more}
                yield change | _accumulate(config, mesh, more, decode)


def changed(config: TrainConfig, change: Change) -> TrainConfig:
    """Returns the settings with the change made; their checks run again."""
    for path, value in change.items():
        *sections, last = path.split(".")
        parts = [config]
        for section in sections:
            parts.append(getattr(parts[-1], section))
        for part, name in zip(reversed(parts), [last, *reversed(sections)], strict=True):
            value = dataclasses.replace(part, **{name: value})
        config = value
    return config


def _try(config: TrainConfig, made: Plan, change: Change, decode: bool) -> Trial:
    try:
        found = planning.make(changed(config, change), made.topology, decode)
    except ValueError as error:  # Of settings that do not go together: said, and not hidden.
        return Trial(change, 0, False, str(error))
    return Trial(change, found.memory.peak, bool(found.fits), "")


def _lean(config: TrainConfig, mesh: dict[str, int]) -> Change:
    """Returns the changes that keep the least without another mesh."""
    change: Change = {}
    if config.compute.remat != "full":
        change["compute.remat"] = "full"
    if (most := _most(config, mesh)) > config.accumulate:
        change["accumulate"] = most
    return change


def _most(config: TrainConfig, mesh: dict[str, int]) -> int:
    """Returns the micro-batches that leave one row for each device that splits rows."""
    splits = math.prod(mesh[axis] for axis in config.sharding.batch)
    return max(config.data.batch_size // splits, config.accumulate)


def _accumulate(config: TrainConfig, mesh: dict[str, int], more: int, decode: bool) -> Change:
    """Returns more micro-batches where fewer devices split the rows."""
    if decode:
        return {}
    most = _most(config, mesh) * more
    return {"accumulate": most} if config.data.batch_size % most == 0 else {}


def _doubled(first: int, last: int) -> list[int]:
    found = []
    while 2 * first <= last:
        first *= 2
        found.append(first)
    return found


def _peak(trial: Trial) -> str:
    return f"{trial.peak / GIB:8.2f}" if not trial.note else f"   error: {trial.note}\n{'':10}"
