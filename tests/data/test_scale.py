"""A trillion tokens open at once and take no memory. Their files are holes: zeros without disk."""

import dataclasses
import os
import time
import tracemalloc

import numpy as np
import pytest

from llama_jax.config.data import SourceConfig
from llama_jax.core import files
from llama_jax.data import packing
from llama_jax.data.order import PackedSource
from llama_jax.data.tokens import FORMAT, FileEntry, Manifest, TokenStore, shard_name

ALL = SourceConfig(path="")
SHARDS, SHARD = 250, 4 * 10**9  # Tokens.
DOCUMENT = 10**6  # Tokens: a million documents have 8 MB of offsets.
TOKENS = SHARDS * SHARD


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trillion")
    np.save(folder / "offsets.npy", np.arange(0, TOKENS + 1, DOCUMENT))
    for i in range(SHARDS):
        with open(folder / shard_name(i, SHARDS), "wb") as file:
            os.truncate(file.fileno(), 2 * SHARD)
    size = (folder / "offsets.npy").stat().st_size
    manifest = Manifest(
        format=FORMAT,
        dtype="uint16",
        vocab=32_000,
        tokenizer_sha256="",
        add_bos=True,
        add_eos=True,
        documents=TOKENS // DOCUMENT,
        tokens=TOKENS,
        text_bytes=0,
        dropped={},
        offsets=FileEntry(file="offsets.npy", bytes=size, sha256=""),
        shards=tuple(
            FileEntry(file=shard_name(i, SHARDS), bytes=2 * SHARD, sha256="") for i in range(SHARDS)
        ),
        recipe={},
        code_version="",
    )
    files.write_json(folder / "manifest.json", dataclasses.asdict(manifest))
    return folder


@pytest.mark.parametrize("kind", ["concat", "segments"])
def test_opening_and_seeking_take_no_time_and_no_memory(folder, tmp_path, kind):
    tracemalloc.start()
    begin = time.perf_counter()
    source = PackedSource(
        packing.open_rows(TokenStore(folder), ALL, 4096, kind, tmp_path), 0, shuffle=True
    )
    rows = [source.row(index) for index in (0, 10**8, 10**12)]
    seconds = time.perf_counter() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 2 << 20  # The rows themselves, and the names of the shards.
    assert source.rows == (TOKENS - 1) // 4096
    if kind == "segments":
        assert all(row.segment_BT.max() <= 2 for row in rows)


def test_a_document_s_end_is_found_in_the_middle_of_a_trillion_tokens(folder, tmp_path):
    rows = packing.open_rows(TokenStore(folder), ALL, 4096, "segments", tmp_path)
    end = 777_777 * DOCUMENT
    row = rows.read(end // 4096, turn=0)
    np.testing.assert_array_equal(row.segment_BT, 1 + (np.arange(4096) >= end % 4096))


def test_memory_for_a_plan_does_not_grow_with_the_documents(tmp_path, write_store):
    def peak(count, attempt):
        store = TokenStore(write_store(tmp_path / f"{count}-{attempt}", [[1, 2]] * count))
        tracemalloc.start()
        packing.open_rows(store, ALL, 1024, "first_fit", tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # What other threads of this process happen to allocate comes on top: the least counts.
    few, many = (min(peak(count, k) for k in range(3)) for count in (1 << 15, 1 << 17))
    assert many < 1.1 * few
