"""What the rest of the program knows of the processes of its run: an id, a count, and agreement."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Processes(Protocol):
    """The processes of a run, seen from one of them."""

    id: int
    count: int

    def exchange(self, what: str, value: Any) -> list[Any]:
        """Returns the values (JSON) of all processes by id, when all have called this.

        Each must call the same exchanges in the same order, from its main thread.
        """

    def tell_stuck(self, why: str) -> None:
        """Tells the others that this process is about to end with 75 because it is stuck."""


class Alone:
    """The only process of a run."""

    id, count = 0, 1

    def exchange(self, what: str, value: Any) -> list[Any]:
        """Returns the value of this process, in a list."""
        return [value]

    def tell_stuck(self, why: str) -> None:
        """There is nobody to tell."""


def agreed(processes: Processes, what: str, value: Any) -> Any:
    """Returns the value of process 0, in all."""
    return processes.exchange(what, value if processes.id == 0 else None)[0]


def first_alone(processes: Processes, what: str, make: Callable[[], T]) -> T:
    """Returns make(), which process 0 has finished before the others begin it."""
    if processes.id == 0:
        made = make()
        processes.exchange(what, None)
        return made
    processes.exchange(what, None)
    return make()
