"""What a person sees of a distillation, and what it cost.

distill 57/100 ━━━━━━━━━━━╺━━━━━━━━ asked 120 kept 12 retries 3 tokens 1.2M in 300k out cost 0.42
"""

import contextlib
import sys
import time
from collections.abc import Iterator

import rich.console
from rich.progress import BarColumn, Progress, TextColumn

from llama_jax.config.distill import TeacherConfig
from llama_jax.distillation.answer import Answer
from llama_jax.telemetry.console import short

EVERY = 30.0  # Seconds between two lines where no terminal shows a bar.


class Tally:
    """Counts of one run; tokens and cost are those of all answers of the workdir.

    Args:
        teacher: Its prices.
        total: Conversations that are wanted.
        usage: Tokens in and out, and answers that tell none, before this run.
    """

    def __init__(self, teacher: TeacherConfig, total: int, usage: tuple[int, int, int]):
        self._teacher, self.total = teacher, total
        self._tokens_in, self._tokens_out, self._untold = usage
        self.done = self.failed = self.asked = self.kept = self.cut = self.retries = 0
        self._update = lambda: None
        self._said = time.monotonic()

    def count(self, answer: Answer) -> None:
        """Counts an answer that was asked for in this run."""
        self.asked += 1
        self.cut += answer.is_cut
        self._tokens_in += max(answer.tokens_in, 0)
        self._tokens_out += max(answer.tokens_out, 0)
        self._untold += answer.tokens_in < 0 or answer.tokens_out < 0

    def show(self) -> None:
        """Shows the counts as they are now."""
        self._update()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows a bar on a terminal, and lines from time to time anywhere else."""
        console = rich.console.Console(file=sys.stderr, highlight=False)
        if not console.is_terminal or console.is_dumb_terminal:
            self._update = self._line
            yield
            return
        columns = (
            TextColumn("distill {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True, expand=True) as bar:
            task = bar.add_task("", total=self.total, text="")
            self._update = lambda: bar.update(
                task, completed=self.done + self.failed, text=self.words()
            )
            self._update()
            yield

    def words(self) -> str:
        """Returns 'asked 120 kept 12 retries 3 tokens 1.20M in 300k out cost 0.42'."""
        words = [f"asked {self.asked} kept {self.kept}"]
        if self.failed:
            words.append(f"failed {self.failed}")
        if self.retries:
            words.append(f"retries {self.retries}")
        return " ".join([*words, self.spent()])

    def spent(self) -> str:
        """Returns the tokens of all answers and, if there are prices, what they cost."""
        told = "at least " if self._untold else ""
        text = f"tokens {told}{short(self._tokens_in)} in {short(self._tokens_out)} out"
        price_in, price_out = self._teacher.price_in, self._teacher.price_out
        if not price_in and not price_out:
            return text
        cost = (self._tokens_in * price_in + self._tokens_out * price_out) / 1e6
        return f"{text} cost {told}{cost:.2f}"

    def _line(self) -> None:
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            print(f"distill {self.done}/{self.total} {self.words()}", file=sys.stderr, flush=True)
