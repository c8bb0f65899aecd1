"""Batches are a function of the settings and the step: nothing else changes one bit."""

import dataclasses
import itertools
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.data import DataConfig, SourceConfig, TextConfig
from llama_jax.config.mesh import MeshConfig, ShardingRules
from llama_jax.core.errors import DataError
from llama_jax.data import opening
from llama_jax.data.batch import content_hash
from llama_jax.data.held_out import held_out_batches
from llama_jax.data.loader import Loader, fingerprint_differences
from llama_jax.data.opening import open_source
from llama_jax.data.order import PackedSource
from llama_jax.sharding import zigzag
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh

LENGTH, ROWS = 16, 8


def layout(devices=1, context=1):
    mesh = make_mesh(MeshConfig(context=context), jax.devices()[:devices])
    return Layout(mesh, ShardingRules())


@pytest.fixture
def config(tmp_path, write_jsonl, sentences):
    books = write_jsonl(tmp_path / "books.jsonl", sentences(60))
    code = write_jsonl(tmp_path / "code.jsonl", sentences(30, seed=1))
    return DataConfig(
        tokenizer="",
        mixture={
            "books": SourceConfig(path=str(books)),
            "code": SourceConfig(path=str(code), weight=0.5),
        },
        sequence_length=LENGTH,
        batch_size=ROWS,
        packing="segments",
    )


@pytest.fixture
def load(config, tokenizer, tmp_path):
    def make(placing=None, seed=0, **changes):
        changed = dataclasses.replace(config, **changes)
        return Loader(changed, seed, tokenizer, tmp_path / "cache", placing or layout())

    return make


def take(loader, count, start=0):
    steps = itertools.islice(loader.batches(start), count)
    return [jax.tree.map(np.asarray, batch) for batch in steps]


def same(left, right):
    assert len(left) == len(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_continuing_at_a_step_gives_the_batches_of_an_unbroken_run(load):
    whole = take(load(), 40)  # Several epochs of both sources.
    same(take(load(), 5, start=20), whole[20:25])
    same(take(load(), 3, start=25), whole[25:28])  # Twice, within an epoch.
    assert not np.array_equal(whole[20].token_BT, whole[21].token_BT)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("prefetch", [0, 1, 16])
def test_reading_ahead_changes_nothing(load, threads, prefetch):
    same(take(load(threads=threads, prefetch=prefetch), 12), take(load(), 12))


def test_slow_reading_changes_nothing(load, monkeypatch):
    expected = take(load(), 8)
    row, calls = PackedSource.row, itertools.count()

    def slow(self, index):
        time.sleep(0.002 * (next(calls) % 3))
        return row(self, index)

    monkeypatch.setattr(PackedSource, "row", slow)
    same(take(load(threads=8, prefetch=8), 8), expected)


@pytest.mark.parametrize("devices", [2, 8])
def test_the_mesh_changes_nothing(load, devices):
    loader = load(layout(devices))
    same(take(loader, 6), take(load(), 6))
    wanted = layout(devices).sharding("batch", "sequence")
    assert all(leaf.sharding == wanted for leaf in jax.tree.leaves(next(loader.batches())))


def test_split_sequences_are_stored_in_zigzag_order(load):
    loader = load(layout(8, context=4))
    order = zigzag.order(LENGTH, 4)
    expected = [jax.tree.map(lambda leaf: leaf[:, order], batch) for batch in take(load(), 6)]
    same(take(loader, 6), expected)
    token_BT = next(loader.batches()).token_BT
    assert token_BT.sharding == layout(8, context=4).sharding("batch", "sequence")
    assert token_BT.addressable_shards[0].data.shape == (ROWS // 2, LENGTH // 4)


def test_a_process_reads_only_the_rows_of_its_devices(load):
    class Half:
        """A layout as the second of two processes sees it."""

        def sharding(self, *dims):
            return self

        def addressable_devices_indices_map(self, shape):
            return {"a": (slice(4, 6), slice(None)), "b": (slice(6, 8), slice(None))}

    loader, whole = load(Half()), take(load(), 3)
    for step, batch in enumerate(whole):
        same([loader._read(step)], [jax.tree.map(lambda leaf: leaf[4:], batch)])


def test_the_hash_of_a_batch_tells_batches_and_rows_apart_on_any_mesh(load):
    batches = [load(placing) for placing in (layout(), layout(8), layout(8, context=4))]
    several = [itertools.islice(loader.batches(), 4) for loader in batches]
    hashes = [[int(content_hash(batch)) for batch in four] for four in several]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes[0])) == 4
    [batch] = take(load(), 1)
    swapped = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[jnp.array([1, 0, *range(2, ROWS)])], batch
    )
    assert int(content_hash(swapped)) != hashes[0][0]


def test_every_row_of_every_source_is_read_once_per_epoch(load):
    loader = load(packing="concat", prefetch=0)
    rows = {name: source.rows for name, source in loader._sources.items()}
    names = [loader._schedule.locate(i) for i in range(ROWS * 120)]
    for name, count in rows.items():
        first = [i for i, (source, k) in enumerate(names) if source == name and k < count]
        assert len(first) == count
        stream = np.concatenate([loader._row(i).target_BT for i in first])
        store = loader._stores[name]
        assert len(stream) == count * LENGTH
        assert store.tokens - 1 - LENGTH < len(stream) < store.tokens


def test_mixed_rows_follow_the_weights(load):
    loader = load()
    names = [loader._schedule.locate(i)[0] for i in range(300)]
    assert names.count("books") == 200


@pytest.mark.parametrize("packing", ["concat", "segments", "first_fit", "best_fit", "alone"])
def test_batches_are_the_same_for_any_threads_prefetch_mesh_and_start(load, packing):
    """D10: hashes of batches, for 1, 2 and 8 threads, without and with reading ahead."""
    settings = [(threads, prefetch) for threads in (1, 2, 8) for prefetch in (0, 4)]
    hashes = {
        tuple(int(content_hash(batch)) for batch in take(loader, 5, start=3))
        for loader in (
            *(load(packing=packing, threads=t, prefetch=p) for t, p in settings),
            load(layout(8), packing=packing),
        )
    }
    assert len(hashes) == 1
    [five] = hashes
    assert len(set(five)) == 5
    again = take(load(packing=packing), 2, start=6)
    assert tuple(int(content_hash(batch)) for batch in again) == five[3:]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_any_number_of_processes_reads_the_same_global_batch(load, packing, processes):
    [whole] = take(load(packing=packing), 1)
    parts = []
    for process in range(processes):
        part = load(packing=packing)
        part._rows = np.arange(ROWS // processes) + process * (ROWS // processes)
        parts.append(part._read(0))
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    same([joined], [whole])


def test_weights_may_change_at_a_restart_and_sources_go_on(load, config):
    other = {
        "books": dataclasses.replace(config.mixture["books"], weight=0.25),
        "code": config.mixture["code"],
    }
    first = load(shuffle=False)
    second = load(mixture=other, shuffle=False)
    lines = fingerprint_differences(first.fingerprint, second.fingerprint)
    assert lines == ["data.mixture.books.weight: 1.0 -> 0.25"]
    second.continue_at(5, json.loads(json.dumps(first.fingerprint)))
    same(take(second, 5), take(first, 5))
    counts = first._schedule.counts(5)
    row = {
        name: next(
            second._schedule.locate(5 * ROWS + i)[1]
            for i in range(ROWS)
            if second._schedule.locate(5 * ROWS + i)[0] == name
        )
        for name in counts
    }
    assert row == counts  # The next row of each source is the one after its last.
    third = load(mixture=other, shuffle=False)
    third.continue_at(9, json.loads(json.dumps(second.fingerprint)))
    same(take(third, 3, start=9), take(second, 3, start=9))
    assert third.fingerprint == second.fingerprint
    assert [phase["step"] for phase in third.fingerprint["phases"]] == [0, 5]


def test_a_run_with_another_order_is_told_so(load):
    old = {name: value for name, value in load().fingerprint.items() if name != "order"}
    [line] = fingerprint_differences(old, load().fingerprint)
    assert line == "data.order: None -> 2"


def test_without_shuffling_rows_are_read_in_order(load, config, tokenizer, tmp_path):
    only = {"books": config.mixture["books"]}
    first = take(load(mixture=only, shuffle=False, packing="concat"), 1)[0]
    store = open_source(only["books"], config.text, tokenizer, tmp_path / "cache")
    np.testing.assert_array_equal(first.token_BT.ravel(), store.read(0, ROWS * LENGTH))
    np.testing.assert_array_equal(first.target_BT.ravel(), store.read(1, ROWS * LENGTH + 1))


def test_batches_need_no_implicit_transfer(load):
    with jax.transfer_guard("disallow"):
        batch = next(load(layout(8)).batches())
    assert [leaf.dtype.name for leaf in jax.tree.leaves(batch)] == ["int32"] * 4 + ["float32"]


def test_dropping_the_iterator_ends_its_threads(load):
    before = threading.active_count()
    batches = load(threads=4, prefetch=8).batches()
    next(batches)
    assert threading.active_count() > before
    del batches
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_an_error_in_a_reading_thread_reaches_the_caller(load, monkeypatch):
    def broken(self, index):
        raise DataError("x.bin was cut short")

    loader = load()
    monkeypatch.setattr(PackedSource, "row", broken)
    with pytest.raises(DataError, match="cut short"):
        next(loader.batches())


def test_the_fingerprint_names_what_changed_and_ignores_speed(load, config, tmp_path, write_jsonl):
    old = json.loads(json.dumps(load().fingerprint))
    assert fingerprint_differences(old, load(layout(8), threads=1, prefetch=0).fingerprint) == []

    def changed(**settings):
        lines = fingerprint_differences(old, load(**settings).fingerprint)
        return [line.split(":")[0] for line in lines]

    assert changed(seed=1) == ["data.seed"]
    assert changed(packing="concat", shuffle=False) == ["data.packing", "data.shuffle"]
    assert changed(sequence_length=8) == ["data.sequence_length"]
    only = {"books": config.mixture["books"]}
    assert changed(mixture=only) == ["data.mixture.code"]
    part = {"books": dataclasses.replace(config.mixture["books"], fraction=0.9, epochs=3.0)}
    assert changed(mixture=config.mixture | part) == ["data.mixture.books.fraction"]
    assert changed(text=TextConfig(add_eos=False)) == [
        "data.mixture.books.tokens_sha256",
        "data.mixture.code.tokens_sha256",
    ]
    write_jsonl(tmp_path / "books.jsonl", ["the cat sat on the mat"] * 60)
    assert changed() == ["data.mixture.books.tokens_sha256"]


def test_raw_files_are_tokenised_once(config, tokenizer, tmp_path, monkeypatch):
    source = config.mixture["books"]
    first = open_source(source, config.text, tokenizer, tmp_path / "cache")

    def again(*_):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(opening, "_tokenise_into", again)
    second = open_source(source, config.text, tokenizer, tmp_path / "cache")
    assert second.path == first.path
    prepared = SourceConfig(path=str(first.path))
    assert open_source(prepared, config.text, tokenizer, tmp_path).fingerprint == first.fingerprint


def test_unreadable_raw_files_leave_no_cache(config, tokenizer, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2: broken JSON"):
        open_source(
            SourceConfig(path=str(tmp_path / "bad.jsonl")), config.text, tokenizer, tmp_path / "new"
        )
    assert list((tmp_path / "new").iterdir()) == []


def test_two_processes_may_tokenise_at_once(config, tokenizer, tmp_path, monkeypatch):
    source, folder = config.mixture["books"], tmp_path / "cache"
    tokenise = opening.tokenise

    def overtaken(*arguments):
        monkeypatch.setattr(opening, "tokenise", tokenise)
        open_source(source, config.text, tokenizer, folder)  # The other process is quicker.
        return tokenise(*arguments)

    monkeypatch.setattr(opening, "tokenise", overtaken)
    assert open_source(source, config.text, tokenizer, folder).tokens > 0
    assert len(list(folder.iterdir())) == 1


def test_settings_that_do_not_fit_are_errors(load, config, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="a batch of 6 rows of 16 tokens does not divide"):
        load(layout(8), batch_size=6)
    with pytest.raises(ValueError, match="one row of sequence_length 100000 needs 100001"):
        load(sequence_length=100_000)
    prepared = open_source(config.mixture["books"], config.text, tokenizer, tmp_path / "cache")
    source = SourceConfig(path=str(prepared.path))
    with pytest.raises(ValueError, match=r"text.add_bos is False but .* was prepared with True"):
        open_source(source, TextConfig(add_bos=False), tokenizer, tmp_path)
    with pytest.raises(ValueError, match="is not a prepared folder"):
        open_source(
            SourceConfig(path=str(tmp_path), format="prepared"), config.text, tokenizer, tmp_path
        )


def held_out(config, tokenizer, tmp_path, rows, placing=None):
    return list(
        held_out_batches(
            config.mixture["books"],
            config.text,
            tokenizer,
            sequence_length=LENGTH,
            rows=rows,
            batch_size=ROWS,
            cache=tmp_path / "cache",
            layout=placing or layout(),
        )
    )


def test_held_out_rows_are_the_first_in_order_and_the_rest_is_padding(config, tokenizer, tmp_path):
    first, second = held_out(config, tokenizer, tmp_path, rows=11, placing=layout(8))
    store = open_source(config.mixture["books"], config.text, tokenizer, tmp_path / "cache")
    tokens = np.concatenate([first.token_BT, second.token_BT[:3]])
    np.testing.assert_array_equal(tokens.ravel(), store.read(0, 11 * LENGTH))
    assert np.all(first.weight_BT == 1) and np.all(second.weight_BT[:3] == 1)
    assert all(not np.any(leaf[3:]) for leaf in map(np.asarray, jax.tree.leaves(second)))


def test_held_out_reads_all_rows_and_refuses_more(config, tokenizer, tmp_path):
    batches = held_out(config, tokenizer, tmp_path, rows=-1)
    store = open_source(config.mixture["books"], config.text, tokenizer, tmp_path / "cache")
    rows = (store.tokens - 1) // LENGTH
    assert sum(float(batch.weight_BT.sum()) for batch in batches) == rows * LENGTH
    with pytest.raises(ValueError, match=f"rows is {rows + 1} but .* has {rows} rows of 16"):
        held_out(config, tokenizer, tmp_path, rows=rows + 1)
