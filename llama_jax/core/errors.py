"""How a command ends: one clear sentence and an exit code that a launcher can act on."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

# After sysexits.h. Launchers start again after 74 and 75, never after the others.
EXIT_BAD_DATA = 65
EXIT_BUG = 70
EXIT_IO = 74
EXIT_RETRY = 75
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell counts.


class DataError(ValueError):
    """Bytes that came from outside are not what they must be; the message names file and place."""


class RetryError(RuntimeError):
    """The run ended through no fault of its own and continues when it is started again."""


def run(command: Callable[[], int | None]) -> None:
    """Runs a command and exits: 0, or one sentence on stderr and 65, 74, 75 or 78.

    A ValueError or OSError raised by this package was written for the user. One raised by a
    library, and any other exception, is a bug: its traceback is printed and the code is 70.
    LLAMA_JAX_TRACEBACK=1 prints tracebacks always.
    """
    try:
        code = command()
    except (KeyboardInterrupt, Exception) as error:
        code = explain(error)
    sys.exit(code or 0)


def explain(error: BaseException) -> int:
    """Prints what `error` means to the user; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if os.environ.get("LLAMA_JAX_TRACEBACK") or not is_for_the_user(error):
        traceback.print_exception(error)
    else:
        print(f"error: {error}", file=sys.stderr)
    return _exit_code(error)


def _exit_code(error: BaseException) -> int:
    for kind, code in ((RetryError, EXIT_RETRY), (OSError, EXIT_IO), (DataError, EXIT_BAD_DATA)):
        if isinstance(error, kind):
            return code
    return EXIT_CONFIG if is_for_the_user(error) else EXIT_BUG


def is_for_the_user(error: BaseException) -> bool:
    """True if its message is one of ours (or the system refused a file: OSError)."""
    if isinstance(error, (OSError, RetryError)):
        return True
    if not isinstance(error, ValueError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)
