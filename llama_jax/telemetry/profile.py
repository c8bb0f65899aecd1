"""A trace of chosen steps, for xprof or TensorBoard (https://docs.jax.dev/en/latest/profiling.html)."""

import contextlib
from pathlib import Path
from typing import Any, Self

import jax

from llama_jax.config.train import ProfileConfig


class Profiler:
    """Traces steps first ... first + steps - 1 into a folder, or nothing if `steps` is 0.

    Used around every step:

        profiler.before(step)
        state, scalars = train_step(state, batch)
        profiler.after(step, scalars)

    A run that resumes inside the range traces the rest of it; one that ends inside it keeps what
    was traced.
    """

    def __init__(self, config: ProfileConfig, folder: Path):
        self._steps = range(config.first, config.first + config.steps)
        self._folder = folder
        self._tracing = False
        self._annotation = contextlib.ExitStack()

    def before(self, step: int) -> None:
        """Starts the trace if this step is in the range and names the step in it."""
        if step not in self._steps:
            return
        if not self._tracing:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._annotation.enter_context(annotation)

    def after(self, step: int, results: Any) -> None:
        """Ends the trace after the last step of the range, when the device has finished it."""
        self._annotation.close()
        if self._tracing and step >= self._steps[-1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes the trace if one is running."""
        self._annotation.close()
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
