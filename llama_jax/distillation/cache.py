"""What the teacher answered, in one SQLite file: whatever is in it is never asked again.

    answers    each request's key, the answer, tokens in and out; and log-probabilities as JSON
    results    each finished conversation: id, turns, and the text; as Together's script had them,
               so the columns have its names; and the keys of its answers as a JSON list

The last of each is NULL where no log-probabilities were asked for. Format 1 had neither column: its
files are given them when they are opened, and a row's CRC is that of what is not NULL.

A stored row survives kill -9, and a power cut too (WAL, synchronous=FULL: one sync per answer is
nothing beside the seconds that an answer takes). Every row ends in a CRC. The file must not be on
NFS, where SQLite's log does not work.
"""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from llama_jax.core.errors import DataError
from llama_jax.distillation.answer import Answer

FORMAT = 2
APPLICATION = 0x6C6A6474  # "ljdt", in the file's header.
HEADER = b"SQLite format 3\0"
TABLES = {
    "answers": ("key", "answer", "tokens_in", "tokens_out", "is_cut", "logprobs"),
    "results": ("id", "turns", "results", "keys"),
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
PRAGMA user_version = 1;
"""
_SINCE_2 = f"""
ALTER TABLE answers ADD COLUMN logprobs TEXT;
ALTER TABLE results ADD COLUMN keys TEXT;
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
            self._database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{_SINCE_2}COMMIT;")
        elif version < FORMAT:
            self._check_pages()
            self._database.executescript(f"BEGIN IMMEDIATE;{_SINCE_2}COMMIT;")
        self._check()

    def _check(self) -> None:
        """Reads everything: a flipped bit is found now, not trained on."""
        self._check_pages()
        for table in TABLES:
            for row in rows(self._database, table):
                if not is_whole(row):
                    raise Damaged(f"{self._path} is damaged: {table} {row[0]!r} has another CRC.")
                if table == "results" and not self.has_all(row[-2]):
                    raise Damaged(f"{self._path} is damaged: {row[0]!r} lacks log-probabilities.")

    def _check_pages(self) -> None:
        # quick_check lets a bit pass that makes the index find another request's answer.
        if (found := self._value("PRAGMA integrity_check(1)")) != "ok":
            raise Damaged(f"{self._path} is damaged: {found}.")

    def answer(self, key: str) -> Answer | None:
        """Returns the stored answer to a request, if there is one."""
        with self._told():
            found = self._database.execute(
                "SELECT answer, tokens_in, tokens_out, is_cut, logprobs FROM answers WHERE key = ?",
                (key,),
            ).fetchone()
        if found is None:
            return None
        text, tokens_in, tokens_out, is_cut, logprobs = found
        return Answer(text, tokens_in, tokens_out, bool(is_cut), logprobs or "")

    def store(self, key: str, answer: Answer) -> None:
        """Keeps an answer; when this returns it is on the disk."""
        counts = (answer.tokens_in, answer.tokens_out, int(answer.is_cut))
        self.add("answers", (key, answer.text, *counts, answer.logprobs or None))

    def finish(self, name: str, turns: Sequence[str], text: str, keys: Sequence[str] = ()) -> None:
        """Keeps a whole conversation; `keys` are of answers with log-probabilities."""
        named = json.dumps(list(keys)) if keys else None
        self.add("results", (name, json.dumps(list(turns)), text, named))

    def add(self, table: str, row: Sequence[Any]) -> None:
        """Adds a row with its CRC, unless there is one of this key."""
        columns, places = ", ".join((*TABLES[table], "crc")), ", ".join("?" * (len(row) + 1))
        with self._told():
            self._database.execute(
                f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})", (*row, crc(row))
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

    def conversations(self) -> Iterator[tuple[list[str], str, list[str]]]:
        """Yields turns, text and keys of every finished conversation, in the order of ids."""
        with self._told():
            for turns, text, keys in self._database.execute(
                "SELECT turns, results, keys FROM results ORDER BY id"
            ):
                yield json.loads(turns), text, json.loads(keys or "[]")

    def logprobs(self, keys: Iterable[str]) -> list[str]:
        """Returns the log-probabilities of these answers."""
        with self._told():
            query = "SELECT logprobs FROM answers WHERE key = ?"
            return [self._value(query, key) for key in keys]

    def has_all(self, keys: str | None) -> bool:
        """True if every answer of a JSON list of keys is here with its log-probabilities."""
        return not self._value(
            "SELECT count(*) FROM json_each(?) WHERE NOT EXISTS"
            " (SELECT 1 FROM answers WHERE key = value AND logprobs NOT NULL)",
            keys,
        )

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


def rows(database: sqlite3.Connection, table: str, *place: int) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of a table, or the one at a place: what TABLES names, and the CRC.

    A column that the file does not have, being in an older format, is None.
    """
    one = " WHERE rowid = ?" if place else ""
    cursor = database.execute(f"SELECT * FROM {table}{one}", place)
    names = [name for name, *_ in cursor.description]
    where = [names.index(name) if name in names else None for name in (*TABLES[table], "crc")]
    for row in cursor:
        yield tuple(None if at is None else row[at] for at in where)


def crc(row: Sequence[Any]) -> int:
    """Returns the CRC-32 of what is not None in a row without its last column."""
    return zlib.crc32(json.dumps([value for value in row if value is not None]).encode())


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
