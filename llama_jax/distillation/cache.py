"""What the teacher answered, in one SQLite file: whatever is in it is never asked again.

    answers    each request's key, the answer, tokens in and out
    results    each finished conversation: id, turns, and the text; as Together's script had them,
               so the columns have its names

A stored row survives kill -9, and a power cut too (WAL, synchronous=FULL: one sync per answer is
nothing beside the seconds that an answer takes). Every row ends in a CRC. The file must not be on
NFS, where SQLite's log does not work.
"""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from llama_jax.core.errors import DataError
from llama_jax.distillation.reply import Answer

FORMAT = 1
APPLICATION = 0x6C6A6474  # "ljdt", in the file's header.
HEADER = b"SQLite format 3\0"
TABLES = {
    "answers": ("key", "answer", "tokens_in", "tokens_out", "is_cut"),
    "results": ("id", "turns", "results"),
}
_OF_THE_SYSTEM = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, answer TEXT, tokens_in INTEGER, tokens_out INTEGER, is_cut INTEGER,
    crc INTEGER);
CREATE TABLE IF NOT EXISTS results (id TEXT PRIMARY KEY, turns TEXT, results TEXT, crc INTEGER);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
"""


class Damaged(DataError):
    """The file is not as it was written."""


class Cache:
    """The answers of a workdir. One thread at a time may use it, and one process at all.

    Raises:
        Damaged: See `repair.py`.
        DataError: The file is something else.
        ValueError: It was written in a newer format.
        OSError: The disk is full, or the file cannot be opened.
    """

    def __init__(self, path: Path):
        self._path = path
        _check_header(path)
        with self._told():
            self._database = sqlite3.connect(
                path, timeout=30, check_same_thread=False, isolation_level=None
            )
        try:
            with self._told():
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes the log into the file."""
        self._database.close()

    def _prepare(self) -> None:
        application = self._value("PRAGMA application_id")
        version = self._value("PRAGMA user_version")
        if application == APPLICATION and version > FORMAT:
            raise ValueError(
                f"{self._path} is in format {version}; this program reads formats up to {FORMAT}. "
                "Use the version of llama_jax that wrote it, or a newer one."
            )
        if application != APPLICATION and self._value("SELECT count(*) FROM sqlite_master"):
            raise DataError(
                f"{self._path} was not written by llama_jax. Move it away; a database of "
                "Together's script is read with config.old_database."
            )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if application != APPLICATION:
            self._database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        self._check()

    def _check(self) -> None:
        """Reads everything: a flipped bit is found now, not trained on."""
        # quick_check lets a bit pass that makes the index find another request's answer.
        if (found := self._value("PRAGMA integrity_check(1)")) != "ok":
            raise Damaged(f"{self._path} is damaged: {found}.")
        for table in TABLES:
            for row in self._database.execute(f"SELECT * FROM {table}"):
                if not is_whole(row):
                    raise Damaged(f"{self._path} is damaged: {table} {row[0]!r} has another CRC.")

    def answer(self, key: str) -> Answer | None:
        """Returns the stored answer to a request, if there is one."""
        with self._told():
            found = self._database.execute(
                "SELECT answer, tokens_in, tokens_out, is_cut FROM answers WHERE key = ?", (key,)
            ).fetchone()
        if found is None:
            return None
        text, tokens_in, tokens_out, is_cut = found
        return Answer(text, tokens_in, tokens_out, bool(is_cut))

    def store(self, key: str, answer: Answer) -> None:
        """Keeps an answer; when this returns it is on the disk."""
        row = (key, answer.text, answer.tokens_in, answer.tokens_out, int(answer.is_cut))
        self.add("answers", row)

    def finish(self, name: str, turns: Sequence[str], text: str) -> None:
        """Keeps a whole conversation."""
        self.add("results", (name, json.dumps(list(turns)), text))

    def add(self, table: str, row: Sequence[Any]) -> None:
        """Adds a row with its CRC, unless there is one of this key."""
        places = ", ".join("?" * (len(row) + 1))
        with self._told():
            self._database.execute(
                f"INSERT OR IGNORE INTO {table} VALUES ({places})", (*row, crc(row))
            )

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Adds everything that the block adds, or nothing; one sync for all of it."""
        with self._told():
            self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        with self._told():
            self._database.execute("COMMIT")

    def turns(self, name: str) -> list[str] | None:
        """Returns the turns of a finished conversation; None if there is none of this id."""
        with self._told():
            found = self._value("SELECT turns FROM results WHERE id = ?", name)
        return json.loads(found) if found is not None else None

    def conversations(self) -> Iterator[tuple[list[str], str]]:
        """Yields turns and text of every finished conversation, in the order of ids."""
        with self._told():
            for turns, text in self._database.execute(
                "SELECT turns, results FROM results ORDER BY id"
            ):
                yield json.loads(turns), text

    def usage(self) -> tuple[int, int, int]:
        """Returns over all answers: tokens in, tokens out, and how many do not tell theirs."""
        with self._told():
            return self._database.execute(
                "SELECT coalesce(sum(max(tokens_in, 0)), 0), coalesce(sum(max(tokens_out, 0)), 0),"
                " coalesce(sum(tokens_in < 0 OR tokens_out < 0), 0) FROM answers"
            ).fetchone()

    def _value(self, query: str, *values: Any) -> Any:
        row = self._database.execute(query, values).fetchone()
        return row[0] if row else None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        with told(self._path):
            yield


def _check_header(path: Path) -> None:
    """Raises before SQLite looks: of a file without a header it would delete the log."""
    if path.is_file():
        with open(path, "rb") as file:
            if (found := file.read(len(HEADER))) and found != HEADER:
                raise Damaged(f"{path} is damaged: it does not begin as a database does.")


def crc(row: Sequence[Any]) -> int:
    """Returns the CRC-32 of a row without its last column."""
    return zlib.crc32(json.dumps(list(row)).encode())


def is_whole(row: Sequence[Any]) -> bool:
    """True if a row's last column is its CRC."""
    if any(isinstance(value, bytes) for value in row):
        return False
    return bool(row) and crc(row[:-1]) == row[-1]


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Says what SQLite raises in a sentence with the file's name.

    Raises:
        Damaged: The file is no database, or a damaged one.
        OSError: The disk or the file system refused something.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _OF_THE_SYSTEM:
            raise OSError(f"{path}: {error}. Everything answered before is saved.") from None
        # Text that is not UTF-8 is refused by Python, without a code; so are calls that are wrong.
        if not code and "decode" not in str(error):
            raise
        raise Damaged(f"{path} is damaged: {error}.") from None
    except UnicodeDecodeError as error:  # Of SQLite's own words, which quote the file.
        raise Damaged(f"{path} is damaged: {error}.") from None
