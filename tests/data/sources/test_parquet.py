"""Parquet rows are records, in order, a few at a time."""

import datetime

import pytest

from llama_jax.config.data import SourceConfig
from llama_jax.core.errors import DataError
from llama_jax.data.sources import parquet, table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_rows_are_read_over_row_groups_in_order(tmp_path, reader):
    expected = [f"row {i}" for i in range(500)]
    for compression in ("none", "snappy", "gzip", "zstd"):
        path = tmp_path / f"{compression}.parquet"
        write(path, {"text": expected}, row_group_size=90, compression=compression)
        read = list(reader(path))
        assert [d.text for d in read] == expected
        assert [d.name for d in read[:2]] == [f"{path.name}:1", f"{path.name}:2"]


def test_records_hold_every_column_or_those_that_are_chosen(tmp_path):
    when = datetime.datetime(2020, 1, 1)
    columns = {
        "text": pa.array(["a", "b"]).dictionary_encode(),
        "meta": [{"url": "u", "n": 1}, None],
        "when": [when, when],
        "tags": [["x"], []],
    }
    path = write(tmp_path / "x.parquet", columns)
    everything = [r.value for r in parquet.read(path, SourceConfig(path="x"))]
    assert everything[0] == {
        "text": "a", "meta": {"url": "u", "n": 1}, "when": when, "tags": ["x"]
    }  # fmt: skip
    chosen = SourceConfig(path="x", columns=("meta", "text"))
    assert [r.value for r in parquet.read(path, chosen)][1] == {"meta": None, "text": "b"}
    with pytest.raises(Exception, match="there is no column 'body', only text, meta, when, tags"):
        list(parquet.read(path, SourceConfig(path="x", columns=("body",))))


def test_a_bad_row_is_lost_alone(tmp_path, reader, texts):
    text = pa.array([b"good", b"\xff", None, b"good"], pa.binary())
    path = write(tmp_path / "x.parquet", {"text": text.view(pa.string()), "n": [1, 2, 3, 4]})
    with pytest.raises(DataError, match=r"x.parquet, row 2: not UTF-8: byte 0xff at 0"):
        texts(path)
    skipping = reader(path, "skip")
    assert [d.name for d in skipping] == ["x.parquet:1", "x.parquet:4"]
    assert skipping.dropped == {"not UTF-8": 1, "not a text": 1}
    with pytest.raises(DataError, match=r"row 1: not a text: 'n' is a int"):
        texts(path, field="n")


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-1], lambda d: d[:200], lambda d: b"", lambda d: d[:4] + b"\xff" * 99 + d[103:]],
    ids=["last byte", "footer", "emptied", "changed"],
)
def test_damaged_files_are_found(damage, tmp_path, reader, texts):
    path = write(tmp_path / "x.parquet", {"text": [f"row {i}" for i in range(200)]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x.parquet: damaged file: "):
        texts(path)
    (tmp_path / "y.txt").write_text("other")
    skipping = reader(tmp_path, "skip")
    assert [d.text for d in skipping] == ["other"]
    assert skipping.dropped == {"damaged file": 1}


def test_a_changed_page_is_found_by_its_checksum(tmp_path, texts):
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    path = write(tmp_path / "x.parquet", {"text": [f"cat {i:02}" for i in range(50)]}, **options)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"cat 25", b"bat 25"))
    with pytest.raises(DataError, match=r"damaged file: .*CRC checksum"):
        texts(path)


def test_one_row_group_is_not_held_as_a_whole(tmp_path):
    path = write(
        tmp_path / "x.parquet",
        {"text": [f"{i:09}" * 1000 for i in range(6000)]},
        compression="none",
        use_dictionary=False,
    )
    assert pq.ParquetFile(path).num_row_groups == 1 and path.stat().st_size > 50_000_000
    pool, most = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    for _ in parquet.read(path, SourceConfig(path="x")):
        most = max(most, pool.bytes_allocated() - before)
    assert most < 16_000_000


def test_without_pyarrow_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(table.importlib, "import_module", _refuse)
    with pytest.raises(ValueError, match=r"need pyarrow.*pip install 'llama-jax\[data\]'"):
        table.pyarrow("parquet")


def _refuse(name):
    raise ImportError(name)


def test_real_files_are_read(shared, texts):
    found = texts(shared / "data/c4_parquet")
    assert len(found) == 240
    assert found[0].startswith("Beginners BBQ Class Taking Place in Missoula!")


def test_a_column_that_grows_beyond_all_measure_is_not_read(tmp_path, reader):
    columns = {"text": ["a" * (4 << 20)] * 17 + ["b"], "other": ["c"] * 18}
    path = write(tmp_path / "x.parquet", columns, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=r"x.parquet.*decompression bomb: "):
        list(reader(path))
    chosen = SourceConfig(path="x", columns=("other",))
    assert len(list(parquet.read(path, chosen))) == 18
