"""A progress bar on standard error, on a terminal only."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")


@contextlib.contextmanager
def counting(verb: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each of `total` pieces of work."""
    console = Console(stderr=True)
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda: bar.advance(task)


def counted(items: Sequence[T], verb: str) -> Iterator[T]:
    """Yields `items`, counting those that are done."""
    with counting(verb, len(items)) as count:
        for item in items:
            yield item
            count()
