"""Where the wall time of a run goes.

The main thread is in one phase at a time, so phases never overlap and their seconds add up. Time
on the device that hides behind another phase (data read while a step runs) costs nothing and is
not counted: what is counted is what the run waited for.
"""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

# This module is imported in the first second of a command: the start of the process.
_STARTED = time.monotonic()

# The phases of the training loop itself; their sum is what a step takes.
STEP = "step"
DATA = "data"


class Timing:
    """Seconds by phase ("step", "data", "compile", "evaluation", "checkpoint" or any other name).

    Args:
        clock: Seconds that never go back.
        started: When the process started, by that clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, started: float | None = None):
        self._clock = clock
        self._started = _STARTED if started is None else started
        self._seconds: dict[str, float] = defaultdict(float)
        self._logged: dict[str, float] = defaultdict(float)
        self._steps = self._logged_steps = 0
        self._first: float | None = None

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's wall time as `name`. Phases do not nest."""
        entered = self._clock()
        try:
            yield
        finally:
            self._seconds[name] += self._clock() - entered

    def finish_step(self) -> None:
        """Counts one optimizer step."""
        self._steps += 1
        if self._first is None:
            self._first = self._clock()

    def goodput(self) -> float:
        """Returns seconds in steps / seconds since the process started, in [0, 1]."""
        return self._seconds[STEP] / (self._clock() - self._started)

    def remaining(self, steps: int) -> float:
        """Returns seconds until `steps` more are done at the pace so far; nan before the second.

        The pace is that of this process after its first step, with everything that happened in
        between (evaluation and checkpoints too), so the estimate includes those to come.
        """
        if self._first is None or self._steps < 2:
            return math.nan
        return (self._clock() - self._first) / (self._steps - 1) * steps

    def lap(self) -> tuple[float, dict[str, float]]:
        """Returns loop seconds since the last lap, and metrics of the steps finished since then.

        Loop seconds are those in steps and waiting for data; a step's time is its share of them.
        The first lap's compilation is neither.
        """
        steps = self._steps - self._logged_steps
        step = self._seconds[STEP] - self._logged[STEP]
        data = self._seconds[DATA] - self._logged[DATA]
        self._logged, self._logged_steps = self._seconds.copy(), self._steps
        values = {"goodput/fraction": self.goodput()}
        if steps:
            values["throughput/step_time_s"] = (step + data) / steps
            values["data/wait_time_s"] = data / steps
        return step + data, values
