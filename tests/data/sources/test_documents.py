"""Every kind of bad input is one sentence with file and line, or is left out and counted."""

import gzip
import json
import random
from pathlib import Path

import pytest
import zstandard

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.core.errors import DataError
from llama_jax.data.sources import documents
from llama_jax.data.sources.documents import Reader

GOOD = b'{"text": "good"}\n'


def reader(path, on_error="stop", **source):
    return Reader(SourceConfig(path=str(path), **source), TextConfig(on_error=on_error))


def texts(path, on_error="stop", **source):
    return [document.text for document in reader(path, on_error, **source)]


BAD_LINES = {
    "overlong": (b'{"text": "\xc0\xaf"}', "not UTF-8"),
    "lone continuation": (b'{"text": "\x80"}', "not UTF-8"),
    "cut character": (b'{"text": "\xe2\x82"}', "not UTF-8"),
    "encoded surrogate": (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
    "beyond U+10FFFF": (b'{"text": "\xf4\x90\x80\x80"}', "not UTF-8"),
    "byte 0xFF": (b'{"text": "\xff"}', "not UTF-8"),
    "lone surrogate": (b'{"text": "a\\ud800"}', "half a character"),
    "cut line": (b'{"text": "go', "broken JSON"),
    "trailing comma": (b'{"text": "x",}', "broken JSON"),
    "raw NUL": (b'{"text": "a\x00b"}', "broken JSON"),
    "huge integer": (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "broken JSON"),
    "deep": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "broken JSON"),
    "second BOM": (b"\xef\xbb\xbf" + GOOD.strip(), "broken JSON"),
    "a list": (b'["good"]', "not an object"),
    "no field": (b'{"body": "x", "meta": 1}', "no field"),
    "a number": (b'{"text": 1}', "not a text"),
    "null": (b'{"text": null}', "not a text"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_stops_with_its_place_or_is_counted(name, tmp_path):
    line, reason = BAD_LINES[name]
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(DataError, match=rf"x.jsonl, line 3: {reason}: .*on_error='skip'"):
        texts(path)
    skipping = reader(path, "skip")
    assert [document.name for document in skipping] == ["x.jsonl:1", "x.jsonl:4"]
    assert skipping.dropped == {reason: 1}


GOOD_LINES = {
    "CRLF": (GOOD[:-1] + b"\r\n" + GOOD[:-1] + b"\r\n", ["good", "good"]),
    "BOM": (b"\xef\xbb\xbf" + GOOD, ["good"]),
    "blank lines": (b"\n \n\t\r\n" + GOOD + b"\n\n", ["good"]),
    "no last line end": (GOOD + GOOD[:-1], ["good", "good"]),
    "escaped NUL": (b'{"text": "a\\u0000b"}', ["a\0b"]),
    "strange numbers": (b'{"text": "x", "a": NaN, "b": 1e999, "c": -Infinity}', ["x"]),
    "doubled key": (b'{"text": "first", "text": "last"}', ["last"]),
    "surrogate pair": (b'{"text": "\\ud83e\\udd99"}', ["🦙"]),
    "empty text": (b'{"text": ""}\n' + GOOD, ["good"]),
}


@pytest.mark.parametrize("name", GOOD_LINES)
def test_unusual_lines_are_read(name, tmp_path):
    data, expected = GOOD_LINES[name]
    (tmp_path / "x.jsonl").write_bytes(data)
    assert texts(tmp_path / "x.jsonl") == expected


def test_too_long_a_document_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 3 << 20)
    fits = json.dumps({"text": "x" * ((3 << 20) - 12)}).encode()
    (tmp_path / "x.jsonl").write_bytes(fits + b"\n" + b"y" * (9 << 20) + b"\n" + GOOD)
    with pytest.raises(DataError, match="line 2: too long"):
        texts(tmp_path / "x.jsonl")
    assert list(map(len, texts(tmp_path / "x.jsonl", "skip"))) == [(3 << 20) - 12, 4]
    (tmp_path / "x.txt").write_bytes(b"y" * (9 << 20))
    with pytest.raises(DataError, match=r"x.txt: too long"):
        texts(tmp_path / "x.txt")


def compress(name, data):
    if name == ".gz":
        return gzip.compress(data)
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_of_several_parts_are_read(ending, tmp_path):
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(compress(ending, GOOD * 1000) + compress(ending, GOOD * 500))
    assert texts(path) == ["good"] * 1500


@pytest.mark.parametrize("damage", ["cut", "changed"])
@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_archives_are_found(ending, damage, tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % (i * 7919**2) for i in range(20_000))
    data = bytearray(compress(ending, lines))
    if damage == "cut":
        data = data[:-3]
    else:
        data[-6] ^= 1  # In the checksum of a .gz, in the last block of a .zst.
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=rf"x.jsonl{ending}, after line \d+: damaged archive"):
        texts(path)
    skipping = reader(path, "skip")
    assert len(list(skipping)) > 1000 or damage == "changed"
    assert skipping.dropped == {"damaged archive": 1}


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_decompression_bomb_does_not_fill_the_memory(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 1 << 20)
    (tmp_path / f"x.jsonl{ending}").write_bytes(compress(ending, bytes(200 << 20)))
    with pytest.raises(DataError, match="line 1: too long"):
        texts(tmp_path / f"x.jsonl{ending}")


def test_text_files_are_documents_in_the_order_of_their_names(tmp_path):
    for name, data in {
        "b.txt": b"\xef\xbb\xbfline\r\nline\r\n",
        "a/z.txt": b"nested",
        "a/skip/x.txt": b"excluded",
        "c.md": b"other",
        "d.txt": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(data)
    read = reader(tmp_path, pattern="**/*.txt", exclude=("skip",))
    assert {d.name: d.text for d in read} == {"a/z.txt": "nested", "b.txt": "line\nline\n"}
    assert read.dropped == {"empty": 1}


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(str(i))
    found = [path for path in sorted(tmp_path.iterdir(), reverse=True)]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(found))
    assert texts(tmp_path) == [str(i) for i in range(10)]


def test_a_bad_text_file_stops_with_its_name_or_is_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "b.txt").write_bytes(b"good")
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8: byte 0xff at 0"):
        texts(tmp_path)
    assert texts(tmp_path, "skip") == ["good"]


def test_the_name_tells_the_format_and_the_format_overrules_it(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.txt").write_bytes(b"plain")
    assert texts(tmp_path) == ["good", "plain"]
    assert texts(tmp_path, format="text") == [GOOD.decode(), "plain"]
    (tmp_path / "c.json").write_bytes(b'{"body": "other field"}')
    only = tmp_path / "c.json"
    assert texts(only, format="jsonl", field="body") == ["other field"]


def test_sources_without_documents_are_errors(tmp_path):
    with pytest.raises(ValueError, match="nowhere' does not exist"):
        reader(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no file in .* matches pattern"):
        reader(tmp_path)
    for pattern in ("", "/etc/*", "../*"):
        with pytest.raises(ValueError, match="must be a glob inside"):
            reader(tmp_path, pattern=pattern)
    (tmp_path / "x.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="holds no documents"):
        texts(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b"{\n{\n")
    with pytest.raises(DataError, match=r"holds no documents .*'broken JSON': 2"):
        texts(tmp_path / "x.jsonl", "skip")


def test_arbitrary_bytes_are_read_or_refused(tmp_path):
    random_ = random.Random(0)
    alphabet = [
        b'{"text": "',
        b'"}',
        b"\n",
        b"\\u",
        b"d800",
        b"\xff",
        b"\xc3\xa9",
        b"[",
        b"x",
        b"\0",
    ]
    path = Path(tmp_path / "x.jsonl")
    for _ in range(500):
        path.write_bytes(b"".join(random_.choices(alphabet, k=random_.randrange(30))))
        for on_error in ("stop", "skip"):
            try:
                found = texts(path, on_error)
            except DataError as error:
                assert "x.jsonl" in str(error)
            else:
                assert all(text.encode() for text in found)
