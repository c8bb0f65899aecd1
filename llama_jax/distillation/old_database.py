"""Databases of Together's released script: results(key or id, turns, results).

key        SHA-256 of the turns, joined by spaces
turns      the human turns as Python writes a list of texts
results    the conversation as prompts.join has it
"""

import ast
import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_jax.core.errors import DataError
from llama_jax.distillation import cache, prompts

LARGEST_TURNS = 16 << 20  # Characters.


def key(turns: Sequence[str]) -> str:
    """Returns the script's key, which is one for ["a b"] and for ["a", "b"]."""
    return hashlib.sha256(" ".join(turns).encode()).hexdigest()


def is_one(path: Path) -> bool:
    """True if the file is a database with the script's columns."""
    try:
        with contextlib.closing(_open(path)) as database:
            return _names(path, database) is not None
    except (OSError, DataError):
        return False


def read(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Yields key, turns and text of each row, in the order of keys; a wrong one has no turns.

    Raises:
        DataError: The file is no such database, or is damaged.
        OSError: It cannot be opened.
    """
    with contextlib.closing(_open(path)) as database, cache.told(path):
        if (name := _names(path, database)) is None:
            raise DataError(
                f"{path} has no table results(key or id, turns, results), as the databases of "
                "Together's script have."
            )
        rows = database.execute(f"SELECT {name}, turns, results FROM results ORDER BY {name}")
        for found, turns, text in rows:
            yield _checked(found, turns, text)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    with cache.told(path):
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        database.text_factory = bytes
        return database


def _names(path: Path, database: sqlite3.Connection) -> str | None:
    """Returns what the column of keys is called: the script's comment says key, its query id."""
    with cache.told(path):
        # A view could compute for ever; a table cannot.
        query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'results'"
        if not database.execute(query).fetchone()[0]:
            return None
        columns = {row[1].decode() for row in database.execute("PRAGMA table_info(results)")}
    found = [name for name in ("id", "key") if columns >= {name, "turns", "results"}]
    return found[0] if found else None


def _checked(found: object, turns: object, text: object) -> tuple[str, list[str], str]:
    """Returns a row as texts; without turns if they are not what its key and its text say."""
    if not isinstance(found, bytes) or not isinstance(turns, bytes) or not isinstance(text, bytes):
        return "", [], ""
    try:
        name, asked, said = found.decode(), _list(turns.decode()), text.decode()
    except UnicodeDecodeError:
        return "", [], ""
    if not asked or name.lower() != key(asked) or prompts.split(asked, said) is None:
        return name, [], ""
    return name.lower(), asked, said


def _list(text: str) -> list[str]:
    """Returns the list of texts that Python wrote, [] if it is none."""
    if len(text) > LARGEST_TURNS:
        return []
    try:
        value = ast.literal_eval(text)
        ok = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if ok:
            "".join(value).encode()  # Half a character is no text.
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return []
    return value if ok else []
