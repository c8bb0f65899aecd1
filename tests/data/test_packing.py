"""Rows are the concatenated documents, cut; nothing is lost, doubled or mixed."""

import collections
import itertools

import numpy as np
import pytest

from llama_jax.config.data import SourceConfig
from llama_jax.data import packing
from llama_jax.data.order import PackedSource
from llama_jax.data.packing import open_rows
from llama_jax.data.tokens import TokenStore


@pytest.fixture
def open_source(tmp_path, counting_store):
    def make(length, kind, seed=0, shuffle=True, store=counting_store, **source):
        rows = open_rows(store, SourceConfig(path="", **source), length, kind, tmp_path)
        return PackedSource(rows, seed, shuffle)

    return make


def epoch(source, number=0):
    return [source.row(number * source.rows + k) for k in range(source.rows)]


def test_the_drawing(tmp_path, write_store, drawn_rows, open_source):
    documents, rows = drawn_rows(packing.__doc__)
    assert len(rows) == 2
    store = TokenStore(write_store(tmp_path / "drawn", documents))
    source = open_source(4, "segments", shuffle=False, store=store)
    made = [
        {name: getattr(row, f"{name}_BT").tolist() for name in rows[0]} for row in epoch(source)
    ]
    assert made == rows


@pytest.mark.parametrize("length", [1, 4, 7, 30])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["concat", "segments"])
def test_every_token_is_a_target_once_per_epoch(open_source, counting_store, length, shuffle, kind):
    source = open_source(length, kind, seed=3, shuffle=shuffle)
    left_out = []
    for number in range(4):
        targets = collections.Counter(int(t) for r in epoch(source, number) for t in r.target_BT)
        assert set(targets.values()) == {1}
        assert len(targets) == source.rows * length > counting_store.tokens - 1 - length
        left_out.append(set(range(counting_store.tokens)) - set(targets))
    if not shuffle:
        assert all(0 in tokens for tokens in left_out)  # The very first follows nothing.
    else:
        assert len(set(map(frozenset, left_out))) > 1


def test_targets_follow_their_tokens_around_the_ring(open_source, counting_store):
    for number in range(8):
        for row in epoch(open_source(10, "concat", seed=1), number):
            stream = [*row.token_BT, row.target_BT[-1]]
            np.testing.assert_array_equal(np.diff(stream) % counting_store.tokens, 1)
            np.testing.assert_array_equal(row.target_BT[:-1], row.token_BT[1:])


def test_epochs_and_seeds_have_their_own_rows_and_order(open_source):
    def firsts(seed, number):
        return [int(row.token_BT[0]) for row in epoch(open_source(8, "concat", seed), number)]

    assert firsts(0, 0) == firsts(0, 0)
    for seed, number in ((0, 1), (1, 0)):
        assert sorted(firsts(0, 0)) != sorted(firsts(seed, number))  # Cut elsewhere.
        in_order = np.argsort(firsts(0, 0)), np.argsort(firsts(seed, number))
        assert in_order[0].tolist() != in_order[1].tolist()


def test_segments_predict_nothing_across_documents(open_source, counting_store):
    document = np.repeat(np.arange(40), np.diff(counting_store.offsets[:]))
    for row in epoch(open_source(16, "segments", seed=1)):
        same = (document[row.token_BT] == document[row.target_BT]) & (row.target_BT != 0)
        np.testing.assert_array_equal(row.weight_BT, same)
        for t in range(16):
            first = np.flatnonzero(row.segment_BT == row.segment_BT[t])[0]
            assert row.position_BT[t] == t - first
            np.testing.assert_array_equal(
                row.segment_BT == row.segment_BT[t],
                document[row.token_BT] == document[row.token_BT[t]],
            )


def test_concat_is_one_segment_with_full_weight(open_source):
    row = open_source(16, "concat", seed=1).row(2)
    assert row.segment_BT.tolist() == [1] * 16
    assert row.position_BT.tolist() == list(range(16))
    assert row.weight_BT.tolist() == [1.0] * 16


@pytest.mark.parametrize("kind", ["concat", "segments", "first_fit", "best_fit", "alone"])
def test_rows_have_the_same_form_however_they_are_packed(open_source, kind):
    for row in epoch(open_source(16, kind)):
        assert [leaf.dtype.name for leaf in vars(row).values()] == ["int32"] * 4 + ["float32"]
        assert {leaf.shape for leaf in vars(row).values()} == {(16,)}


@pytest.mark.parametrize("kind", ["concat", "segments", "first_fit", "best_fit", "alone"])
def test_the_weight_of_a_prediction_is_the_one_stored_with_its_target(
    open_source, tmp_path, write_store, kind
):
    """Token i is i and has the weight i % 3."""
    ends = np.cumsum(np.random.default_rng(0).integers(0, 13, 40)).tolist()
    documents = [list(range(*ends)) for ends in zip([0, *ends], ends, strict=False)]
    weights = [[token % 3 for token in document] for document in documents]
    store = TokenStore(write_store(tmp_path / "weighted", documents, weights))
    answers = epoch(open_source(16, kind, store=store, loss="completion"))
    for row, plain in zip(answers, epoch(open_source(16, kind, store=store)), strict=True):
        np.testing.assert_array_equal(row.token_BT, plain.token_BT)
        np.testing.assert_array_equal(row.weight_BT, plain.weight_BT * (row.target_BT % 3))
    with pytest.raises(ValueError, match=r"loss is 'completion' but .* without weights"):
        open_source(16, kind, loss="completion")


def test_one_row_is_enough_and_less_is_an_error(tmp_path, write_store, open_source):
    store = TokenStore(write_store(tmp_path / "small", [list(range(9))]))
    only = open_source(8, "concat", shuffle=False, store=store)
    assert only.row(0).token_BT.tolist() == only.row(7).token_BT.tolist() == list(range(8))
    with pytest.raises(ValueError, match=r"has 9 tokens; one row of sequence_length 9 needs 10"):
        open_source(9, "concat", store=store)


@pytest.mark.parametrize("tokens", [9, 10, 16, 17, 24, 25, 31])
def test_rows_in_order_are_those_of_llama_recipes(tmp_path, write_store, open_source, tokens):
    """Its ConcatDataset cuts only what is strictly longer than a row, and drops the rest."""
    ends = [0, 5, 5, tokens - 1, tokens]
    documents = [list(range(*pair)) for pair in itertools.pairwise(ends)]
    buffer, theirs = [], []
    for document in documents:
        buffer += document
        while len(buffer) > 8:
            theirs.append(buffer[:8])
            buffer = buffer[8:]
    store = TokenStore(write_store(tmp_path / "documents", documents))
    rows = epoch(open_source(8, "concat", shuffle=False, store=store))
    assert [row.token_BT.tolist() for row in rows] == theirs
