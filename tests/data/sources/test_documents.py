"""The documents of a source: in one order, from one field, each with its place."""

import gzip
import json
import random
from pathlib import Path

import pytest

from llama_jax.core.errors import DataError

GOOD = b'{"text": "good"}\n'


def test_the_order_does_not_depend_on_the_file_system(tmp_path, texts, monkeypatch):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(str(i))
    found = [path for path in sorted(tmp_path.iterdir(), reverse=True)]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(found))
    assert texts(tmp_path) == [str(i) for i in range(10)]


def test_documents_without_a_character_are_left_out_and_counted(tmp_path, reader):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n' + GOOD)
    (tmp_path / "b.txt").write_bytes(b"")
    read = reader(tmp_path)
    assert [document.name for document in read] == ["a.jsonl:2"]
    assert read.dropped == {"empty": 2}


def test_reading_twice_counts_once(tmp_path, reader):
    (tmp_path / "x.jsonl").write_bytes(GOOD + b"{\n")
    skipping = reader(tmp_path, "skip")
    for _ in range(2):
        assert len(list(skipping)) == 1
        assert skipping.dropped == {"broken JSON": 1}
        assert skipping.bytes_read == skipping.bytes == len(GOOD) + 2


def test_a_broken_file_does_not_end_the_reading_of_others(tmp_path, reader):
    (tmp_path / "a.json").write_bytes(b'[{"text": "1"}, {"text": "2"}, {')
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    skipping = reader(tmp_path, "skip")
    assert [document.text for document in skipping] == ["1", "2", "good"]
    with pytest.raises(DataError, match=r"a\.json, after item 2: broken JSON"):
        list(reader(tmp_path))


def test_sources_without_documents_are_errors(tmp_path, reader, texts):
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


def write_parquet(path, texts):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, compression="none")


def write_array_record(path, texts):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for text in texts:
        writer.write(json.dumps({"text": text}).encode())
    writer.close()


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet", "array_record"])
def test_what_was_read_of_a_file_is_known_before_its_end(tmp_path, ending, reader):
    texts = ["".join(random.Random(i).choices("abcdefgh ", k=10_000)) for i in range(400)]
    records = [json.dumps({"text": text}) for text in texts]
    path = tmp_path / f"x.{ending}"
    match ending:
        case "jsonl":
            path.write_text("\n".join(records))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(records).encode(), 1))
        case "json":
            path.write_text(f"[{','.join(records)}]")
        case "parquet":
            write_parquet(path, texts)
        case _:
            write_array_record(path, texts)
    reader = reader(path)
    seen = [reader.bytes_read for _ in reader]
    assert len(seen) == 400 and seen == sorted(seen)
    assert len(set(seen)) >= 3 and reader.bytes / 5 < seen[200] < reader.bytes * 0.8
    assert reader.bytes_read == reader.bytes
