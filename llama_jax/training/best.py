"""Which evaluation was the best, and whether a run has waited long enough for a better one."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from llama_jax.config.train import EvaluationConfig
from llama_jax.distributed.processes import Processes, agreed
from llama_jax.telemetry import writers


@dataclasses.dataclass(frozen=True)
class Best:
    """The lowest loss of `config.best` so far; nothing if it is not named."""

    config: EvaluationConfig
    step: int = 0  # 0 before the first evaluation.
    loss: float = math.inf
    waited: int = 0  # Evaluations since.

    @classmethod
    def until(
        cls, step: int, config: EvaluationConfig, metrics: Path, processes: Processes
    ) -> Self:
        """Returns what the evaluations up to `step` say, by a run's metrics.jsonl.

        Raises:
            DataError: A line of it is not readable.
        """
        best = cls(config)
        if not config.best:
            return best
        history = _history(metrics, f"eval/{config.best}/loss") if processes.id == 0 else None
        for done, loss in agreed(processes, "evaluations so far", history):
            if done <= step:
                best = best.after(done, {config.best: loss})
        return best

    def after(self, step: int, losses: Mapping[str, float]) -> Self:
        """Returns the best once the evaluators' losses after `step` are known, too."""
        if not self.config.best:
            return self
        loss = losses[self.config.best]
        if loss < self.loss:
            return dataclasses.replace(self, step=step, loss=loss, waited=0)
        return dataclasses.replace(self, waited=self.waited + 1)

    @property
    def is_enough(self) -> bool:
        """True if `patience` evaluations in a row have found nothing better."""
        return 0 < self.config.patience <= self.waited

    def told(self) -> str:
        """Returns why a run that has had enough ends."""
        return (
            f"{self.waited} evaluations in a row found no lower loss of {self.config.best} than "
            f"{self.loss:.4f} at step {self.step}"
        )


def _history(metrics: Path, name: str) -> list[tuple[int, float]]:
    """Returns (step, loss) of all evaluations; a loss that was not finite is written as null."""
    found = [(row["step"], row[name]) for _, row in writers.rows(metrics) if name in row]
    return [(step, math.inf if loss is None else float(loss)) for step, loss in found]
