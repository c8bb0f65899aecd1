"""Whole documents share rows: none is cut that fits, and each token is predicted once."""

import collections
import os

import numpy as np
import pytest

from llama_jax.config.data import SourceConfig
from llama_jax.core.errors import DataError
from llama_jax.data import bins, packing, stream
from llama_jax.data.tokens import TokenStore

FITS = ["first_fit", "best_fit"]


def open_rows(store, length, fit, cache):
    return packing.open_rows(store, SourceConfig(path=""), length, fit, cache)


def rows_of(store, length, fit, cache):
    opened = open_rows(store, length, fit, cache)
    return opened, [opened.read(k, turn=0) for k in range(opened.count)]


def as_lists(row):
    fields = ("token", "target", "segment", "position", "weight")
    return {name: getattr(row, f"{name}_BT").tolist() for name in fields}


def test_the_drawing(tmp_path, write_store, drawn_rows):
    documents, drawn = drawn_rows(bins.__doc__)
    assert len(drawn) == 3
    store = TokenStore(write_store(tmp_path / "drawn", documents))
    opened, rows = rows_of(store, 7, "first_fit", tmp_path)
    assert list(map(as_lists, rows)) == drawn
    assert opened.padding == pytest.approx(2 / 21)
    opened, rows = rows_of(store, 7, "best_fit", tmp_path)
    assert [int((row.segment_BT == 0).sum()) for row in rows] == [0, 2, 0]  # d fills row 2.
    assert rows[2].token_BT[-1] == drawn[1]["token"][5]


@pytest.mark.parametrize("window", [1, 7, 1000])
@pytest.mark.parametrize("length", [1, 4, 11, 30])
@pytest.mark.parametrize("fit", [*FITS, "alone"])
def test_the_law(counting_store, tmp_path, monkeypatch, length, fit, window):
    """Every token but the first of its document is a target once, in a row with its document."""
    monkeypatch.setattr(stream, "WINDOW", window)
    opened, rows = rows_of(counting_store, length, fit, tmp_path)
    offsets = counting_store.offsets[:]
    document = np.repeat(np.arange(40), np.diff(offsets))
    targets, homes = collections.Counter(), collections.defaultdict(set)
    for k, row in enumerate(rows):
        real = row.segment_BT > 0
        np.testing.assert_array_equal(row.weight_BT, real)
        np.testing.assert_array_equal(row.target_BT[real], row.token_BT[real] + 1)
        np.testing.assert_array_equal(document[row.target_BT[real]], document[row.token_BT[real]])
        assert not any(field[~real].any() for field in vars(row).values())
        targets.update(row.target_BT[real].tolist())
        for token in row.token_BT[real]:
            homes[document[token]].add(k)
        same = row.segment_BT[1:] == row.segment_BT[:-1]
        np.testing.assert_array_equal(np.diff(row.position_BT)[same & real[1:]], 1)
        assert not row.position_BT[1:][~same].any()
    assert set(targets) == set(range(counting_store.tokens)) - set(offsets[:-1].tolist())
    assert set(targets.values()) == {1}
    for i, size in enumerate(np.diff(offsets)):
        assert len(homes[i]) == max(-(-(size - 1) // length), 0)  # No more cuts than needed.
    if fit == "alone":
        assert all(row.segment_BT.max() == 1 for row in rows)
        assert len(rows) == sum(map(len, homes.values()))
    used = sum(int((row.segment_BT > 0).sum()) for row in rows)
    assert opened.padding == pytest.approx(1 - used / (len(rows) * length))


def test_fits_are_what_they_are_called():
    size_D = np.random.default_rng(1).integers(1, 64, 500)
    start_D = np.cumsum(size_D) - size_D
    for fit in FITS:
        piece_P2, count_R = bins.fitted(start_D, size_D, 63, fit)
        free, at = [], 0
        placed = []  # Pieces in the order in which they were placed: longest first.
        for row, count in enumerate(count_R):
            for start, stop in piece_P2[at : at + count]:
                placed.append((-(stop - start - 1), int(start), row))
            at += count
        for places, _, row in sorted(placed):
            room = [r for r, left in enumerate(free) if left >= -places]
            if fit == "best_fit":
                room.sort(key=lambda r: (free[r], r))
            expected = room[0] if room else len(free)
            free += [63] * (expected == len(free))
            assert row == expected
            free[row] += places


def test_the_share_of_padding_is_small_where_documents_are(tmp_path):
    size_D = np.random.default_rng(2).lognormal(5, 1, stream.WINDOW).astype(int) + 2
    start_D = np.cumsum(size_D) - size_D
    for fit in FITS:
        piece_P2, count_R = bins.fitted(start_D, size_D, 2048, fit)
        places = (piece_P2[:, 1] - piece_P2[:, 0] - 1).sum()
        assert 1 - places / (len(count_R) * 2048) < 0.005


def test_a_plan_is_made_once_and_lies_beside_the_store(counting_store, tmp_path, monkeypatch):
    first, rows = rows_of(counting_store, 16, "best_fit", tmp_path)
    assert first.plan.rows.path.parent.parent == counting_store.path
    TokenStore(counting_store.path)  # Is still a store.

    def again(*_):
        raise AssertionError("planned again")

    monkeypatch.setattr(bins, "_write", again)
    _, same = rows_of(counting_store, 16, "best_fit", tmp_path)
    assert list(map(as_lists, same)) == list(map(as_lists, rows))
    with pytest.raises(AssertionError):
        open_rows(counting_store, 15, "best_fit", tmp_path)


def test_a_store_that_cannot_be_written_to_is_planned_in_the_cache(
    counting_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, _: path != counting_store.path)
    opened = open_rows(counting_store, 16, "best_fit", tmp_path / "cache")
    assert opened.plan.rows.path.parent.parent == tmp_path / "cache"


def test_a_damaged_plan_is_an_error_that_names_it(counting_store, tmp_path):
    folder = open_rows(counting_store, 16, "best_fit", tmp_path).plan.rows.path.parent
    with open(folder / "rows.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"rows.bin is not what record.json says"):
        open_rows(counting_store, 16, "best_fit", tmp_path)
    (folder / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"record.json is not readable as JSON"):
        open_rows(counting_store, 16, "best_fit", tmp_path)


def test_another_process_may_plan_at_once(counting_store, tmp_path, monkeypatch):
    write = bins._write

    def overtaken(*arguments):
        monkeypatch.setattr(bins, "_write", write)
        open_rows(counting_store, 16, "best_fit", tmp_path)  # The other process is quicker.
        write(*arguments)

    monkeypatch.setattr(bins, "_write", overtaken)
    assert open_rows(counting_store, 16, "best_fit", tmp_path).count > 0


def test_documents_without_a_target_make_no_row(tmp_path, write_store):
    store = TokenStore(write_store(tmp_path / "store", [[5], [], [6]]))
    with pytest.raises(ValueError, match="has no document of two tokens or more"):
        open_rows(store, 4, "best_fit", tmp_path)
