"""What a person sees: a progress bar on a terminal, plain lines anywhere else; always on stderr.

step 120/1000 ━━━━╺━━━━━━━━━━━━━━━━━ loss 3.412 12.3k tok/s mfu 41.2% eta 2:10:33
step 120/1000 loss 3.412 ppl 30.3 lr 3.0e-04 gnorm 0.81 tok/s 12.3k step 1.23s eta 2:10:33
"""

import math
import sys
from collections.abc import Mapping
from typing import Self

import rich.console
from rich.progress import BarColumn, Progress, TextColumn


def short(value: float) -> str:
    """Returns a count with three digits: 987, 12.3k, 4.56M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


# name of the metric, label, how it is written
_FIELDS = (
    ("train/loss", "loss", "{:.3f}".format),
    ("train/perplexity", "ppl", "{:.3g}".format),
    ("train/learning_rate", "lr", "{:.1e}".format),
    ("train/grad_norm", "gnorm", "{:.2f}".format),
    ("throughput/tokens_per_second", "tok/s", short),
    ("throughput/mfu_causal", "mfu", "{:.1%}".format),
    ("throughput/step_time_s", "step", "{:.3g}s".format),
)


class Console:
    """Shows a run's progress.

    Args:
        steps: The run's last step.
        start: The step this process continues from.
        enabled: False (every process but the first) shows nothing.
        console: Where to; the default is stderr, with colours unless NO_COLOR is set.
    """

    def __init__(
        self,
        steps: int,
        *,
        start: int = 0,
        enabled: bool = True,
        console: rich.console.Console | None = None,
    ):
        self._steps = steps
        self._enabled = enabled
        self._console = console or rich.console.Console(file=sys.stderr, highlight=False)
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                expand=True,
                # Results piped from stdout must not end up on stderr.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task("", total=steps, completed=start, text="starting")

    def advance(self, step: int) -> None:
        """Moves the bar to a finished step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float], remaining: float) -> None:
        """Shows the metrics of a logged step; `remaining` is seconds until the end, or nan."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=_short_line(values, remaining))
        else:
            self.message(f"step {step}/{self._steps} {_line(values, remaining)}")

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._enabled:
            self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def clock(seconds: float) -> str:
    """Returns hours:minutes:seconds, as in 2:10:33; "?" if unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def _line(values: Mapping[str, float], remaining: float) -> str:
    words = [f"{label} {show(values[name])}" for name, label, show in _FIELDS if name in values]
    return " ".join([*words, f"eta {clock(remaining)}"])


def _short_line(values: Mapping[str, float], remaining: float) -> str:
    words = [f"loss {values['train/loss']:.3f}"]
    if "throughput/tokens_per_second" in values:
        words.append(f"{short(values['throughput/tokens_per_second'])} tok/s")
    if "throughput/mfu_causal" in values:
        words.append(f"mfu {values['throughput/mfu_causal']:.1%}")
    return " ".join([*words, f"eta {clock(remaining)}"])
