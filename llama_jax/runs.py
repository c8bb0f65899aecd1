"""Training runs as jobs, in the JSON that hosted services give for one; nothing is written.

python -m llama_jax.runs list [FOLDER]    a line for each run in a folder (default: runs)
python -m llama_jax.runs list --json      a record for each, one a line
python -m llama_jax.runs show RUN         one record: id, status, events, tokens, epochs
"""

import argparse
import json
from pathlib import Path
from typing import Any

from llama_jax.core import errors
from llama_jax.core.errors import DataError
from llama_jax.telemetry.console import short
from llama_jax.training import job


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_jax.runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every run in a folder")
    listing.add_argument("path", metavar="FOLDER", type=Path, nargs="?", default=Path("runs"))
    listing.add_argument("--json", action="store_true", help="whole records, one a line")
    showing = commands.add_parser("show", help="one run")
    showing.add_argument("path", metavar="RUN", type=Path, help="the workdir of a run")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Prints what the command line asks for."""
    options = parser().parse_args(arguments)
    if options.command == "show":
        print(json.dumps(job.record(options.path), indent=2))
    else:
        list_runs(options.path, options.json)


def list_runs(folder: Path, as_json: bool) -> None:
    """Prints every run in a folder.

    Raises:
        ValueError: There is none.
        DataError: Files of some are damaged; the others are printed nevertheless.
    """
    found = job.find(folder)
    if not found:
        raise ValueError(f"{folder} holds no run directory. Type: list FOLDER")
    damaged = []
    width = max(3, *(len(str(path)) for path in found))
    if not as_json:
        heads = f"{'steps':>13}  {'tokens':>6}  {'epochs':>6}"
        print(f"{'run':{width}}  {'status':9}  {heads}  updated (UTC)")
    for path in found:
        try:
            record = job.record(path)
        except DataError as error:
            damaged.append(str(error))
            continue
        print(json.dumps(record) if as_json else f"{path!s:{width}}  {_line(record)}")
    if damaged:
        raise DataError("\n".join(damaged))


def _line(record: dict[str, Any]) -> str:
    """Returns 'running    120/1000  1.2M  0  2026-11-21 19:48', under the columns' heads."""
    steps = f"{record['steps_completed']}/{record['n_steps']}"
    updated = record["updated_at"][:16].replace("T", " ")
    return (
        f"{record['status']:9}  {steps:>13}  {short(record['token_count']):>6}  "
        f"{record['epochs_completed']:>6}  {updated}"
    )


if __name__ == "__main__":
    errors.run(main)
