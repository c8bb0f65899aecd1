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


class DataError(ValueError):
    """Bytes that came from outside are not what they must be; the message names file and place."""


def run(command: Callable[[], int | None]) -> None:
    """Runs a command and exits: 0, or one sentence on stderr and 65, 74 or 78.

    A ValueError or OSError raised by this package was written for the user. One raised by a
    library, and any other exception, is a bug: its traceback is printed and the code is 70.
    LLAMA_JAX_TRACEBACK=1 prints tracebacks always.
    """
    try:
        code = command()
    except KeyboardInterrupt:
        code = 130
    except (DataError, ValueError, OSError) as error:
        code = _explain(error)
    except Exception:
        traceback.print_exc()
        code = EXIT_BUG
    sys.exit(code or 0)


def _explain(error: Exception) -> int:
    if os.environ.get("LLAMA_JAX_TRACEBACK") or not _is_ours(error):
        traceback.print_exception(error)
    else:
        print(f"error: {error}", file=sys.stderr)
    if isinstance(error, OSError):
        return EXIT_IO
    if isinstance(error, DataError):
        return EXIT_BAD_DATA
    return EXIT_CONFIG if _is_ours(error) else EXIT_BUG


def _is_ours(error: Exception) -> bool:
    """True if the `raise` stands in this package (or the system refused a file: OSError)."""
    if isinstance(error, OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)
