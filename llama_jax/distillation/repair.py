"""A damaged cache: what can be read of it becomes a new one, and the damaged file is kept.

    answers.sqlite                   renamed, its log too
    answers.sqlite.damaged-<time>    never deleted
    answers.sqlite                   the rows of it whose CRC fits

Interrupted between the two, the next opening finds the damaged file alone and does the rest.
"""

import contextlib
import datetime
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_jax.core.errors import DataError
from llama_jax.distillation import cache
from llama_jax.distillation.cache import Cache, Damaged

HEADER = 100  # Bytes; nearly the same in all files that are written here.
SMALLEST_ROW = 64  # Bytes; a key alone has as many.


def open_cache(path: Path) -> Cache:
    """Returns the cache at `path`, new if there is none; a damaged one is repaired, and told of.

    Raises:
        DataError: It is damaged and nothing of it can be read.
    """
    if not path.exists() and (damaged := _damaged_before(path)):
        _rebuild(damaged[-1], path)
    try:
        return Cache(path)
    except Damaged as error:
        found = error
    _rebuild(_set_aside(path), path, str(found))
    return Cache(path)


def _damaged_before(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm")))


def _set_aside(path: Path) -> Path:
    """Renames the database, after its log: a new one must not find an old log."""
    now = datetime.datetime.now(datetime.UTC)
    aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%S.%f}")
    for ending in ("-shm", "-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def _rebuild(damaged: Path, path: Path, why: str = "") -> None:
    """Writes what can be read of `damaged` to `path`, at once.

    Raises:
        DataError: That is nothing: then a person decides, for everything would be asked again.
    """
    building = path.with_name(f".{path.name}.repairing")
    building.unlink(missing_ok=True)
    Cache(building).close()
    with open(building, "rb") as file:
        fresh = file.read(HEADER)
    with Cache(building) as new, new.at_once():
        counts = _fill(new, damaged, b"")
        if not any(counts.values()):
            counts = _fill(new, damaged, fresh)
    if not any(counts.values()):
        building.unlink()
        raise DataError(
            f"{damaged} is a damaged file of answers of which nothing can be read. To ask "
            "everything again, move it to another folder."
        )
    building.rename(path)
    print(
        f"{why or f'{path} was being repaired.'} {counts['answers']} answers and "
        f"{counts['results']} conversations of it are kept; what is missing is asked again. The "
        f"damaged file is {damaged}",
        file=sys.stderr,
    )


def _fill(new: Cache, damaged: Path, header: bytes) -> dict[str, int]:
    """Adds what can be read behind a header, or the file's own; returns how many of each table."""
    counts = dict.fromkeys(cache.TABLES, 0)
    with _copied(damaged, header) as copy:
        for table in cache.TABLES:
            for row in _rows(copy, table):
                # A conversation that lost log-probabilities is asked for what it lacks.
                if table == "answers" or new.has_all(row[-1]):
                    new.add(table, row)
                    counts[table] += 1
    return counts


def _rows(copy: Path, table: str) -> Iterator[tuple[Any, ...]]:
    """Yields the rows whose CRC fits, without it, each looked up alone: a bad page loses its own.

    The place of a row is between 1 and as many as the file has room for.
    """
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        for place in range(1, _last(database, copy, table) + 1):
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                for row in cache.rows(database, table, place):
                    if cache.is_whole(row):
                        yield row[:-1]


@contextlib.contextmanager
def _copied(damaged: Path, header: bytes) -> Iterator[Path]:
    """Yields a copy of the file and its log: reading may write. It is as long as its header says.

    Of a file that was cut off, SQLite would read nothing at all.
    """
    with tempfile.TemporaryDirectory(dir=damaged.parent, prefix=".repairing-") as folder:
        copy = Path(folder) / "copy"
        for ending in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(damaged.with_name(damaged.name + ending), f"{copy}{ending}")
        with open(copy, "r+b") as file:
            file.write(header)
            file.seek(0)
            found, size = file.read(HEADER), copy.stat().st_size
            page = int.from_bytes(found[16:18], "big")
            if header:
                file.seek(28)
                file.write((size // page).to_bytes(4, "big"))
            elif size < (said := page * int.from_bytes(found[28:32], "big")) <= 16 * size:
                file.truncate(said)  # More is no size.
        yield copy


def _last(database: sqlite3.Connection, damaged: Path, table: str) -> int:
    """Returns the largest place of a row, or a bound where even that cannot be read."""
    room = damaged.stat().st_size // SMALLEST_ROW
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        found = database.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]
        # A flipped bit makes it any number.
        return min(found, room) if isinstance(found, int) else 0
    return room
