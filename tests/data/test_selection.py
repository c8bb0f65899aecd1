"""A source reads the documents that it says, always the same ones, and keeps the others out."""

import numpy as np
import pytest

from llama_jax.config.data import SourceConfig
from llama_jax.data import packing, selection, stream
from llama_jax.data.selection import select
from llama_jax.data.tokens import TokenStore


@pytest.fixture
def store(tmp_path, write_store):
    """2,000 documents of 3 tokens: document i is i, i, i modulo 256."""
    return TokenStore(write_store(tmp_path / "store", [[i % 256] * 3 for i in range(2000)]))


def chosen(store, tmp_path, **settings):
    """Returns the numbers of the documents that are read."""
    found = select(store, SourceConfig(path="x", **settings), [tmp_path / "cache"])
    return [int(start) // 3 for start in found.starts[:]]


@pytest.mark.parametrize("window", [7, 1 << 14])
def test_a_fraction_is_spread_and_smaller_ones_are_inside_larger(
    store, tmp_path, monkeypatch, window
):
    monkeypatch.setattr(stream, "WINDOW", window)
    parts = {f: chosen(store, tmp_path, fraction=f) for f in (0.1, 0.5, 1.0)}
    assert parts[1.0] == list(range(2000))
    assert set(parts[0.1]) < set(parts[0.5])
    assert (len(parts[0.1]), len(parts[0.5])) == (200, 1000)
    assert sum(i < 1000 for i in parts[0.5]) == pytest.approx(500, abs=50)
    assert parts[0.5] == sorted(parts[0.5])


@pytest.mark.parametrize("count", [1, 50, 1999])
def test_documents_that_are_held_out_are_so_many_and_never_trained_on(store, tmp_path, count):
    train = chosen(store, tmp_path, max_val_set=count)
    held_out = chosen(store, tmp_path, max_val_set=count, part="held_out")
    assert len(held_out) == count
    assert sorted(train + held_out) == list(range(2000))
    some = chosen(store, tmp_path, max_val_set=count, fraction=0.3)
    assert (set(some) <= set(train) and len(some) < len(train)) or count == 1999


@pytest.mark.parametrize("window", [7, 1 << 16])
@pytest.mark.parametrize(
    ("fraction", "held_out", "count"),
    [(0.25, 0, 500), (0.29, 1900, 29), (0.3, 1, 599), (1e-9, 0, 0)],
)
def test_a_fraction_is_exactly_so_many_of_those_not_held_out(
    store, tmp_path, monkeypatch, window, fraction, held_out, count
):
    monkeypatch.setattr(selection, "WINDOW", window)
    settings = {"fraction": fraction, "max_val_set": held_out}
    assert len(chosen(store, tmp_path, **settings)) == count


def test_the_card_of_orca_8k_counts_a_quarter_of_its_chunks():
    source = SourceConfig(path="x", fraction=0.25)
    is_read = selection._rule(753_048, source)
    assert int(is_read(np.arange(753_048, dtype=np.uint64)).sum()) == 188_262


def test_held_out_documents_are_at_most_all(store, tmp_path):
    assert len(chosen(store, tmp_path, max_val_set=5000, part="held_out")) == 2000
    with pytest.raises(ValueError, match="has 0 tokens; one row"):
        source = SourceConfig(path="x", max_val_set=5000)
        packing.open_rows(store, source, 4, "concat", tmp_path)


def test_long_documents_become_chunks(tmp_path, write_store):
    sizes = [0, 1, 4, 5, 8, 9, 23]
    ends = np.cumsum(sizes).tolist()
    documents = [list(range(*ends)) for ends in zip([0, *ends], ends, strict=False)]
    store = TokenStore(write_store(tmp_path / "store", documents))
    found = select(store, SourceConfig(path="x", max_chunk_size=4), [tmp_path])
    lengths = np.diff(found.ends[:], prepend=0).tolist()
    assert lengths == [1, 4, 4, 1, 4, 4, 4, 4, 1, 4, 4, 4, 4, 4, 3]
    np.testing.assert_array_equal(found.starts[:], np.cumsum([0, *lengths[:-1]]))
    assert found.tokens == 50 and found.content != store.fingerprint


@pytest.mark.parametrize("kind", ["concat", "segments", "best_fit"])
def test_rows_hold_the_chosen_documents_only(store, tmp_path, kind):
    source = SourceConfig(path="x", fraction=0.2, max_val_set=10)
    rows = packing.open_rows(store, source, 16, kind, tmp_path)
    tokens = np.concatenate([rows.read(k, turn=0).target_BT for k in range(rows.count)])
    weights = np.concatenate([rows.read(k, turn=0).weight_BT for k in range(rows.count)])
    allowed = {i % 256 for i in chosen(store, tmp_path, fraction=0.2, max_val_set=10)}
    assert set(tokens[weights > 0].tolist()) <= allowed
    if kind == "concat":
        kept = chosen(store, tmp_path, fraction=0.2, max_val_set=10)
        expected = [i % 256 for i in kept for _ in range(3)]
        assert tokens.tolist() == expected[1 : 1 + 16 * rows.count]


def test_the_choice_is_written_down(store, tmp_path):
    # Continued runs depend on these numbers.
    assert chosen(store, tmp_path, fraction=0.01)[:3] == [117, 139, 140]
    assert chosen(store, tmp_path, max_val_set=4, part="held_out") == [697, 758, 945, 1758]
