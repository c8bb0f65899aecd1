"""Metrics of a step leave the device once, while the next step runs.

    step n dispatched ── add(n, device scalars) ──> fetches step n - 1 ──> adds it to the window
    every log.every steps ── mean() ──> one row; the window starts again

Waiting for step n - 1 also bounds how far Python runs ahead of the device: one step.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax

# Means over the predicted tokens, so their mean over steps is weighted by "weight".
WEIGHTED = ("loss", "accuracy", "z_loss")
SUMMED = ("weight", "skipped")
# States of the run and not averages: the newest value stands.
NEWEST = ("learning_rate", "param_norm", "batch_hash", "loss_scale")


class Fetched(NamedTuple):
    """A finished step's metrics on the host."""

    step: int
    values: dict[str, float]


class MetricWindow:
    """Collects scalars step by step; means cover the steps since the last `mean`.

    "weight" (number of predicted tokens) must be among the scalars. A skipped step's loss and
    gradient norm are not finite: they enter no mean.
    """

    def __init__(self):
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._rows: list[Fetched] = []

    def add(self, step: int, scalars: Mapping[str, jax.Array]) -> Fetched | None:
        """Takes step n right after its dispatch; returns step n - 1 (None at the first call)."""
        finished = self.flush()
        self._pending = (step, scalars)
        return finished

    def flush(self) -> Fetched | None:
        """Returns the step still on the device after waiting for it, or None if there is none."""
        if self._pending is None:
            return None
        step, scalars = self._pending
        self._pending = None
        # An integer stays one: a hash must be exact.
        values = {name: value.item() for name, value in jax.device_get(dict(scalars)).items()}
        self._rows.append(Fetched(step, values))
        return self._rows[-1]

    def mean(self) -> Fetched:
        """Returns the newest fetched step with values over all steps in the window; empties it."""
        rows, self._rows = self._rows, []
        assert rows, "no step was fetched since the last mean"
        names = rows[-1].values
        return Fetched(rows[-1].step, {name: _reduce(name, rows) for name in names})


def perplexity(loss: float) -> float:
    """Returns exp(loss), infinity where that is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def train_metrics(values: Mapping[str, float]) -> dict[str, float]:
    """Returns a window's values under the names that writers use.

    "weight" and "skipped" are left out: the run counts their totals as data/tokens_seen and
    optim/skipped_steps.
    """
    named = {f"train/{name}": value for name, value in values.items() if name not in SUMMED}
    named["train/perplexity"] = perplexity(values["loss"])
    return named


def _reduce(name: str, rows: list[Fetched]) -> float:
    if name in NEWEST:
        return rows[-1].values[name]
    if name in SUMMED:
        return math.fsum(row.values[name] for row in rows)
    weight = "weight" if name in WEIGHTED else None
    pairs = [(row.values[name], row.values[weight] if weight else 1.0) for row in rows]
    finite = [(value, share) for value, share in pairs if math.isfinite(value)]
    total = math.fsum(share for _, share in finite)
    return math.fsum(value * share for value, share in finite) / total if total else math.nan
