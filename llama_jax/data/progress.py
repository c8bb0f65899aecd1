"""A progress bar on stderr, for a person at a terminal; nothing otherwise."""

import contextlib
from collections.abc import Callable, Iterator

from rich import progress
from rich.console import Console


@contextlib.contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many bytes are done; no total shows a moving bar."""
    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn() if total is not None else progress.TextColumn(""),
        progress.TimeRemainingColumn() if total is not None else progress.TimeElapsedColumn(),
    )
    disabled = not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=disabled) as display:
        task = display.add_task(title, total=total)
        yield lambda done: display.update(task, completed=done)
