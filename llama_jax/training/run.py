"""The bookkeeping around the steps of a run, so that the loop shows only what it trains.

Dispatching a step returns before the device has finished it. The metrics of step n - 1 are
fetched right after step n is dispatched: the device never waits for Python.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import jax

from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config.train import TrainConfig
from llama_jax.core.errors import DataError
from llama_jax.data.report import Report
from llama_jax.distributed.processes import Processes
from llama_jax.model import llama
from llama_jax.telemetry import hardware
from llama_jax.telemetry.console import Console
from llama_jax.telemetry.metrics import Fetched, MetricWindow, train_metrics
from llama_jax.telemetry.profile import Profiler
from llama_jax.telemetry.throughput import Throughput
from llama_jax.telemetry.timing import Timing
from llama_jax.telemetry.writers import Writers
from llama_jax.training import data_picture
from llama_jax.training.best import Best
from llama_jax.training.directory import RunDirectory
from llama_jax.training.preemption import Preemption
from llama_jax.training.state import TrainState
from llama_jax.training.watchdog import Watchdog


class Result(Protocol):
    """What an evaluator found."""

    @property
    def loss(self) -> float:
        """Mean over the tokens of -log p(target)."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""

    def metrics(self, name: str) -> dict[str, float]:
        """Returns the values under the names that writers use."""


class Evaluator(Protocol):
    """Something that measures parameters (llama_jax/evaluation, which `train.py` introduces)."""

    name: str

    def run(self, params: llama.Params) -> Result:
        """Returns what it found."""


WATCHED = ("compile", "step", "data", "checkpoint")


class Run:
    """Reports, clocks, watchdog, profiler and preemption of one process of a run.

    Args:
        config: The run's settings.
        directory: Where reports go.
        start: The step this process continues from; 0 begins anew.
        processes: Of the run; the first of them reports.
        data: What is read of each source.
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: RunDirectory,
        start: int,
        processes: Processes,
        data: Report,
    ):
        self._config, self._directory, self._data = config, directory, data
        self._logged_until = start
        self._skipped = 0
        self._rows_per_step = config.data.batch_size
        self._is_first = is_first = processes.id == 0
        self._timing, self._window = Timing(), MetricWindow()
        self._throughput = Throughput(
            model=config.model,
            sequence_length=config.data.sequence_length,
            devices=jax.device_count(),
            device_kind=jax.devices()[0].device_kind,
            lora=config.lora,
        )
        self._console = Console(config.steps, start=start, enabled=is_first)
        self._writers = Writers(
            directory.path,
            resumed=start or None,
            wandb_project=config.log.wandb_project,
            settings=directory.settings,
            enabled=is_first,
        )
        self._watchdog = Watchdog(config.watchdog, processes)
        self._preemption = Preemption()
        traces = directory.path / "profile"
        self._profiler = Profiler(
            config.profile, traces if processes.count == 1 else traces / f"process_{processes.id}"
        )
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for part in (
            self._writers, self._console, self._watchdog, self._preemption, self._profiler
        ):  # fmt: skip
            self._open.enter_context(part)
        # Every copy between host and device is meant: a hidden one would stall each step.
        self._open.enter_context(jax.transfer_guard("disallow"))
        return self

    def __exit__(self, *reason: Any) -> None:
        self._open.__exit__(*reason)

    @property
    def exit_code(self) -> int:
        """0, or what the process must exit with because it was asked to stop."""
        return self._preemption.exit_code

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's time as `name`, and watches it if the watchdog has a limit for it."""
        watched = self._watchdog.phase(name) if name in WATCHED else contextlib.nullcontext()
        with self._timing.phase(name), watched:
            yield

    def message(self, text: str) -> None:
        """Prints a line for the person who watches."""
        self._console.message(text)

    def step(self, number: int, train_step: Callable, state: Any, batch: Any) -> Any:
        """Returns the state after step `number`; its metrics are fetched during the next one."""
        self._profiler.before(number)
        with self.phase("step"):
            state, scalars = train_step(state, batch)
            finished = self._window.add(number, scalars)
        self._profiler.after(number, scalars)
        self._look_at(finished)
        if self._due(finished):
            self._log()
        return state

    def must_stop(self, step: int) -> bool:
        """True if this process was told to stop: save `step` and leave."""
        return self._preemption.requested(step)

    def evaluate(
        self, done: int, evaluators: Sequence[Evaluator], params: llama.Params
    ) -> dict[str, float]:
        """Reports every evaluator's numbers after `done` steps; returns their losses."""
        self._fetch_last()
        losses = {}
        for evaluator in evaluators:
            with self.phase("evaluation"):
                result = evaluator.run(params)
            losses[evaluator.name] = result.loss
            self._writers.write(done, result.metrics(evaluator.name))
            self.message(
                f"step {done} {evaluator.name}: loss {result.loss:.4f} "
                f"perplexity {result.perplexity:.4g}"
            )
        return losses

    def save(
        self,
        done: int,
        checkpoints: CheckpointManager,
        state: TrainState,
        meta: dict[str, Any],
        best: int,
    ) -> None:
        """Starts to save the state after `done` steps; its metrics are written first.

        `best` is the step whose checkpoint stays however old it gets; 0 is none.
        """
        self._fetch_last()
        with self.phase("checkpoint"):
            checkpoints.save(done, state.without_base(), meta, best=best)

    def finish(self, checkpoints: CheckpointManager, best: Best) -> None:
        """Waits for the last save, and tells how the run ended."""
        with self.phase("checkpoint"):
            checkpoints.wait()
        if self._is_first and (done := checkpoints.latest):
            data_picture.write(self._directory.path / "data.png", self._data, done)
        where = f"{self._directory.checkpoints}/{checkpoints.latest}"
        if best.step:
            self.message(f"lowest loss of {best.config.best}: {best.loss:.4f} at step {best.step}")
        if self.exit_code:
            self.message(f"stopped and saved at {where}. The same command continues from there.")
        elif best.is_enough:
            if self._is_first and checkpoints.latest:
                self._directory.write_end(checkpoints.latest)
            self.message(f"finished early, saved at {where}: {best.told()}")
        else:
            self.message(f"finished: {self._config.steps} steps, saved at {where}")

    def _fetch_last(self) -> None:
        """Fetches the metrics of the newest step, so that nothing of it is lost at a save."""
        with self.phase("step"):
            finished = self._window.flush()
        self._look_at(finished)
        if self._due(finished):
            self._log()

    def _due(self, finished: Fetched | None) -> bool:
        if finished is None:
            return False
        done = finished.step + 1
        return done % self._config.log.every == 0 or done == self._config.steps

    def _log(self) -> None:
        mean = self._window.mean()
        seconds, values = self._timing.lap()
        steps = max(mean.step + 1 - self._logged_until, 1)
        self._logged_until = mean.step + 1
        positions = steps * self._rows_per_step * self._config.data.sequence_length
        values |= train_metrics(mean.values)
        values |= self._throughput.metrics(tokens=positions, seconds=max(seconds, 1e-9))
        values |= hardware.memory(jax.local_devices())
        values["data/tokens_seen"] = (
            (mean.step + 1) * self._rows_per_step * self._config.data.sequence_length
        )
        values |= self._data.metrics(mean.step + 1)
        values["optim/skipped_steps"] = self._skipped
        self._writers.write(mean.step + 1, values)
        remaining = self._timing.remaining(self._config.steps - mean.step - 1)
        self._console.log(mean.step + 1, values, remaining)

    def _look_at(self, finished: Fetched | None) -> None:
        """Counts a skipped step and tells of it; ends the run after too many in a row."""
        if finished is None:
            return
        self._timing.finish_step()
        self._console.advance(finished.step + 1)
        if not finished.values["skipped"]:
            return
        self._skipped += 1
        in_a_row = int(finished.values["skipped_in_a_row"])
        first_row = finished.step * self._rows_per_step
        what = (
            f"step {finished.step + 1}: loss {finished.values['loss']} and gradient norm "
            f"{finished.values['grad_norm']} are not both finite, so nothing was updated (rows "
            f"{first_row} to {first_row + self._rows_per_step - 1} of the data, "
            f"{in_a_row} in a row{_scale_said(finished.values)})"
        )
        self.message(what)
        if in_a_row >= self._config.max_skipped:
            raise DataError(
                f"{what}; config.max_skipped is {self._config.max_skipped}. Look at these rows, "
                f"or lower config.optim.learning_rate{_or_scale(finished.values)}."
            )


def _scale_said(values: Mapping[str, float]) -> str:
    return f", the loss times {values['loss_scale']:g}" if "loss_scale" in values else ""


def _or_scale(values: Mapping[str, float]) -> str:
    return " or config.loss_scale.initial" if "loss_scale" in values else ""
