"""A progress bar on stderr for a person at a terminal, and nothing anywhere else."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
from rich import progress
from rich.console import Console

T = TypeVar("T")


@contextlib.contextmanager
def bar(title: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how much is done.

    Args:
        title: What is being done.
        total: How much there is; None shows a moving bar.
        unit: "bytes" counts in kB and MB; else pieces are counted.
    """
    console = Console(stderr=True)
    counter: progress.ProgressColumn = progress.MofNCompleteColumn()
    if unit == "bytes":
        counter = progress.DownloadColumn()
    known = (counter, progress.TimeRemainingColumn())
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *(known if total is not None else (progress.TimeElapsedColumn(),)),
    )
    disabled = not console.is_terminal or jax.process_index() > 0
    with progress.Progress(*columns, console=console, transient=True, disable=disabled) as display:
        task = display.add_task(title, total=total)
        yield lambda done: display.update(task, completed=done)


def counted(items: Sequence[T], title: str) -> Iterator[T]:
    """Yields `items`, counting those that are done."""
    with bar(title, len(items)) as show:
        for done, item in enumerate(items, 1):
            yield item
            show(done)
