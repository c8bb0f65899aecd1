"""What a run reads of each source: shares, epochs, padding; as a table and as numbers by step."""

import dataclasses
import math
from collections.abc import Mapping

from llama_jax.config.data import DataConfig
from llama_jax.data.packing import Rows
from llama_jax.data.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Usage:
    """What was read of a source before a step."""

    share: float  # Of all rows.
    epochs: float
    tokens: int  # Of its stream, used up by its rows.


def weights(config: DataConfig, sources: Mapping[str, Rows]) -> dict[str, float]:
    """Returns the weights of the sources' rows.

    Computed ones have nine digits: a run must find the same on every machine.
    """
    if config.weight_unit == "sequences" and not config.temperature:
        return {name: source.weight for name, source in config.mixture.items()}
    found = {}
    for name, rows in sources.items():
        weight = config.mixture[name].weight
        if config.temperature:
            weight = rows.stream.tokens ** (1 / config.temperature)
        found[name] = float(f"{weight / _units(config, rows):.9g}")
    return found


def _units(config: DataConfig, rows: Rows) -> float:
    """Returns how many of what the weights count are in a row."""
    match config.weight_unit:
        case "tokens":
            return rows.taken
        case "documents":
            return rows.stream.documents / rows.count
        case "epochs":
            return 1 / rows.count
        case "sequences":
            return 1.0


class Report:
    """Reports on a schedule of sources."""

    def __init__(self, config: DataConfig, sources: Mapping[str, Rows], schedule: Schedule):
        self._config, self._sources, self._schedule = config, sources, schedule

    @property
    def rows(self) -> int:
        """How many rows one epoch of all sources has."""
        return sum(rows.count for rows in self._sources.values())

    def usage(self, step: int) -> dict[str, Usage]:
        """Returns what is read of each source before a step."""
        counts = self._schedule.counts(step)
        total = max(sum(counts.values()), 1)
        return {
            name: Usage(
                share=counts[name] / total,
                epochs=counts[name] / rows.count,
                tokens=round(counts[name] * rows.taken),
            )
            for name, rows in self._sources.items()
        }

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the same under the names that writers use, and the share that is wanted."""
        values: dict[str, float] = {}
        shares = self._schedule.mixture.shares
        for name, usage in self.usage(step).items():
            values[f"data/share/{name}"] = usage.share
            values[f"data/target/{name}"] = float(shares[name])
            values[f"data/epochs/{name}"] = usage.epochs
        return values

    def table(self, steps: int) -> str:
        """Returns a line for each source, as it is read in a run of so many steps."""
        width = max(6, *map(len, self._sources))
        head = f"{'source':{width}} {'tokens':>16} {'rows':>12} {'share':>7} {'padding':>7}"
        lines = [f"{head}  epochs at step {steps}"]
        shares, usage = self._schedule.mixture.shares, self.usage(steps)
        for name, rows in self._sources.items():
            lines.append(
                f"{name:{width}} {rows.stream.tokens:>16,} {rows.count:>12,} "
                f"{float(shares[name]):>7.2%} {rows.padding:>7.2%}  {usage[name].epochs:.3g}"
            )
        return "\n".join(lines)

    def refuse_more_epochs(self, steps: int) -> None:
        """Refuses a run that reads a source more often than its setting says.

        Raises:
            ValueError: See above; the message says how many steps are possible.
        """
        possible = {name: self._possible_steps(name) for name in self._sources}
        name = min(possible, key=lambda name: possible[name])
        if possible[name] < steps:
            raise ValueError(
                f"steps is {steps} but data.mixture.{name}.epochs is "
                f"{self._config.mixture[name].epochs}, which is enough for "
                f"{max(int(possible[name]), 0)} steps. Set steps or epochs."
            )

    def _possible_steps(self, name: str) -> float:
        """Returns after how many steps at the present share the source has had its epochs."""
        epochs = self._config.mixture[name].epochs
        if epochs == math.inf:
            return math.inf
        begin, share = self._schedule.phases[-1], self._schedule.mixture.shares[name]
        left = math.floor(epochs * self._sources[name].count)
        left -= self._schedule.counts(begin.step)[name]
        return begin.step + left / share // begin.batch_size
