"""A prepared folder is what its manifest says, or an error that names the file."""

import json
import shutil
import subprocess
import sys

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.core.errors import DataError
from llama_jax.data import token_writer
from llama_jax.data.packing import open_rows
from llama_jax.data.sources.document import Document
from llama_jax.data.token_writer import TokenWriter, tokenise
from llama_jax.data.tokens import TokenStore

DOCUMENTS = [list(range(i, i + 20)) for i in range(30)]


@pytest.fixture
def folder(tmp_path, write_store, monkeypatch):
    monkeypatch.setattr(token_writer, "SHARD_BYTES", 300)  # 150 tokens: documents 8 by 8.
    return write_store(tmp_path / "store", DOCUMENTS)


def edit(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


def shards(path):
    return sorted(path.glob("tokens-*"))


def test_any_range_reads_what_was_written(folder):
    store = TokenStore(folder)
    stream = np.array([id for ids in DOCUMENTS for id in ids], np.int32)
    assert len(shards(folder)) == 4
    assert store.tokens == len(stream)
    for start in range(0, 600, 37):
        for stop in range(start, 601, 61):
            np.testing.assert_array_equal(store.read(start, stop), stream[start:stop])
    pieces = np.array([[5, 9], [9, 30], [400, 420], [140, 500], [7, 8]])
    expected = np.concatenate([stream[start:stop] for start, stop in pieces])
    np.testing.assert_array_equal(store.gather(pieces), expected)
    for i, ids in enumerate(DOCUMENTS):
        assert store.read(*store.offsets[i : i + 2]).tolist() == ids
    store.verify()


def test_a_store_is_a_source_of_documents_for_grain(tmp_path, folder, write_store):
    store = TokenStore(folder)
    assert isinstance(store, grain.sources.RandomAccessDataSource) and len(store) == 30
    assert [each["tokens"].tolist() for each in grain.MapDataset.source(store)] == DOCUMENTS
    assert store[-1]["tokens"].tolist() == DOCUMENTS[-1] and list(store[0]) == ["tokens"]
    for index in (30, -31):
        with pytest.raises(IndexError, match=rf"document {index} of 30 in"):
            store[index]
    mixed = list(grain.MapDataset.source(store).shuffle(seed=7).map(lambda each: each["tokens"][0]))
    assert sorted(mixed) == [ids[0] for ids in DOCUMENTS] != mixed
    weighted = TokenStore(write_store(tmp_path / "weighted", [[5, 6]], [[0, 1]]))
    assert weighted[np.int64(0)]["weights"].tolist() == [0, 1]


def test_large_vocabularies_take_four_bytes(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 70_000)
    with TokenWriter(tmp_path / "store", tokenizer, TextConfig(), {}) as writer:
        writer.add(Document("", ""), [69_999, 1])
        writer.finish({})
    store = TokenStore(tmp_path / "store")
    assert store.manifest.dtype == "uint32"
    assert store.read(0, 2).tolist() == [69_999, 1]


def test_tokenise_frames_each_document(tokenizer, monkeypatch):
    monkeypatch.setattr(token_writer, "BATCH_BYTES", 10)
    texts = [Document(str(i), f"the cat {i}") for i in range(7)]
    got = list(tokenise(texts, tokenizer, TextConfig(add_bos=True, add_eos=False)))
    assert [document for document, *_ in got] == texts
    assert [ids for _, ids, _ in got] == [tokenizer.encode(d.text, bos=True) for d in texts]


def test_the_form_of_the_released_model(tokenizer):
    """BOS, a line end, the text, and no end (recipes: documents begin 1, 29871, 13)."""
    text = TextConfig(before="\n", add_eos=False)
    [(document, ids, _)] = tokenise([Document("", "the cat")], tokenizer, text)
    assert document.text == "the cat"
    assert ids == [tokenizer.bos_id, *tokenizer.encode("\nthe cat")]
    assert ids[1:3] == tokenizer.encode("\n") and tokenizer.decode(ids) == "\nthe cat"


def test_weights_lie_beside_their_tokens(tmp_path, write_store, monkeypatch):
    monkeypatch.setattr(token_writer, "SHARD_BYTES", 300)
    weights = [[i % 256] * 20 for i in range(29)] + [None]
    folder = write_store(tmp_path / "weighted", DOCUMENTS, weights)
    store = TokenStore(folder)
    assert store.has_weights and len(store.manifest.weights) == 4
    assert (
        store.read_weights(0, 600).tolist() == [i for i in range(29) for _ in range(20)] + [1] * 20
    )
    store.verify()
    plain = TokenStore(write_store(tmp_path / "plain", DOCUMENTS))
    assert not plain.has_weights and plain.fingerprint != store.fingerprint
    path = folder / store.manifest.weights[1].file
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match=r"weights-00001-of-00004.bin was changed"):
        store.verify()
    path.write_bytes(data[1:])
    with pytest.raises(DataError, match=r"weights-00001-of-00004.bin has 159 bytes"):
        TokenStore(folder)


def test_weights_of_other_lengths_are_refused(tmp_path, write_store):
    folder = write_store(tmp_path / "weighted", DOCUMENTS, [None] * 30)
    [entry] = json.loads((folder / "manifest.json").read_text())["weights"]
    edit(folder, weights=[entry | {"bytes": 601}])
    with pytest.raises(DataError, match="the weights have other lengths"):
        TokenStore(folder)
    edit(folder, weights=[entry, entry])
    with pytest.raises(DataError, match="names other files"):
        TokenStore(folder)


def test_the_fingerprint_is_of_content_alone(folder, tmp_path, write_store):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    edit(moved, recipe={"other": 1})
    assert TokenStore(moved).fingerprint == TokenStore(folder).fingerprint
    other = write_store(tmp_path / "other", [[*DOCUMENTS[0][:-1], 7], *DOCUMENTS[1:]])
    assert TokenStore(other).fingerprint != TokenStore(folder).fingerprint


CHEAP = {
    "truncated": (lambda f: shards(f)[1].write_bytes(shards(f)[1].read_bytes()[:-2]), "has 318 b"),
    "odd length": (lambda f: shards(f)[1].write_bytes(shards(f)[1].read_bytes() + b"x"), "321 b"),
    "emptied": (lambda f: shards(f)[0].write_bytes(b""), "has 0 bytes"),
    "missing": (lambda f: shards(f)[3].unlink(), "00003-of-00004.bin is missing"),
    "surplus": (lambda f: shutil.copy(shards(f)[0], f / "tokens-9"), "tokens-9 is not named"),
    "no offsets": (lambda f: (f / "offsets.npy").unlink(), "offsets.npy is missing"),
    "cut offsets": (lambda f: (f / "offsets.npy").write_bytes(b"\x93NUMPY"), "has 6 bytes"),
    "emptied offsets": (lambda f: (f / "offsets.npy").write_bytes(b""), "has 0 bytes"),
    "emptied manifest": (lambda f: (f / "manifest.json").write_bytes(b""), "not readable as JSON"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "not a prepared folder"),
    "broken manifest": (lambda f: (f / "manifest.json").write_text("{"), "not readable as JSON"),
    "list manifest": (lambda f: (f / "manifest.json").write_text("[]"), "not a manifest"),
    "old format": (lambda f: edit(f, format="tokens 0"), "not a manifest of the format"),
    "surplus field": (lambda f: edit(f, more=1), "lacks a field, or has one too many"),
    "no shards": (lambda f: edit(f, shards=[]), "do not fill shards"),
    "strange shards": (lambda f: edit(f, shards=[1]), "lacks a field"),
    "dtype": (lambda f: edit(f, dtype="uint32"), "300 pieces need uint16"),
    "vocabulary": (lambda f: edit(f, vocab=100_000), "100000 pieces need uint32"),
    "negative": (lambda f: edit(f, tokens=-1), "tokens is -1"),
    "text": (lambda f: edit(f, documents="30"), "documents is '30'"),
    "documents": (lambda f: edit(f, documents=29), r"offsets.npy is int64 \(31,\); it must be"),
    "tokens": (lambda f: edit(f, tokens=601), "601 tokens do not fill"),
}


@pytest.mark.parametrize("name", CHEAP)
def test_damage_is_found_at_opening(name, folder, tokenizer):
    TokenStore(folder, tokenizer)
    damage, message = CHEAP[name]
    damage(folder)
    with pytest.raises(ValueError, match=message):
        TokenStore(folder, tokenizer)


def test_a_shard_elsewhere_is_not_read(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "../../secret"
    edit(folder, shards=manifest["shards"])
    with pytest.raises(DataError, match="names other files"):
        TokenStore(folder)


@pytest.mark.parametrize("change", [(0, 1), (-1, 599), (-1, 601)], ids=str)
def test_impossible_ends_of_the_offsets_are_found_at_opening(change, folder):
    offsets = np.load(folder / "offsets.npy")
    offsets[change[0]] = change[1]
    np.save(folder / "offsets.npy", offsets)
    with pytest.raises(DataError, match="does not rise from 0 to 600"):
        TokenStore(folder)


@pytest.mark.parametrize("kind", ["segments", "best_fit"])
def test_falling_offsets_are_found_where_they_are_read(folder, tmp_path, kind):
    offsets = np.load(folder / "offsets.npy")
    offsets[5] = 130
    np.save(folder / "offsets.npy", offsets)
    store = TokenStore(folder)
    with pytest.raises(DataError, match=r"offsets.npy does not rise between its numbers"):
        open_rows(store, SourceConfig(path=""), 16, kind, tmp_path).read(6, turn=0)
    with pytest.raises(DataError, match=r"offsets.npy was changed"):
        store.verify()


def test_offsets_that_are_pickled_code_are_not_run(folder):
    (folder / "offsets.npy").write_bytes(
        b"\x80\x04" + b"x" * ((folder / "offsets.npy").stat().st_size - 2)
    )
    with pytest.raises(DataError, match=r"offsets.npy is not an array"):
        TokenStore(folder)


def test_another_tokenizer_is_found_at_opening(folder, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "sha256", "0" * 64)
    with pytest.raises(DataError, match="made with another tokenizer"):
        TokenStore(folder, tokenizer)


def test_flipped_and_swapped_shards_are_found_by_verify(folder):
    first, second = shards(folder)[:2]
    original = first.read_bytes()
    first.write_bytes(bytes([original[0] ^ 1]) + original[1:])
    with pytest.raises(DataError, match=f"{first.name} was changed"):
        TokenStore(folder).verify()
    first.write_bytes(second.read_bytes())
    second.write_bytes(original)
    with pytest.raises(DataError, match=f"{first.name} was changed"):
        TokenStore(folder).verify()


def test_verify_tells_how_far_it_is(folder):
    done = []
    TokenStore(folder).verify(done.append)
    assert len(done) == 5 and done == sorted(done)
    assert done[-1] == sum(p.stat().st_size for p in [folder / "offsets.npy", *shards(folder)])


@pytest.fixture(scope="module")
def intact(tmp_path_factory, tokenizer):
    """A prepared folder whose files are changed and put back."""
    folder = tmp_path_factory.mktemp("intact") / "store"
    with TokenWriter(folder, tokenizer, TextConfig(), {}) as writer:
        for ids in DOCUMENTS:
            writer.add(Document("", ""), ids)
        writer.finish({})
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=200)
@given(
    file=st.integers(0, 2),
    cut=st.floats(0, 1),
    at=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=1, max_size=12),
)
def test_no_change_of_any_byte_goes_unseen(file, cut, at, new, intact, tokenizer):
    """Of the tokens and offsets; of the manifest, whatever changes where they are or what."""
    for path, data in intact.items():
        path.write_bytes(data)
    path = sorted(intact)[file]
    original = TokenStore(path.parent, tokenizer).fingerprint
    data = bytearray(intact[path])
    start = int(at * len(data))
    data[start : start + len(new)] = new
    data = bytes(data[: round(cut * len(data))] if cut > 0.5 else data)
    path.write_bytes(data)
    try:
        store = TokenStore(path.parent, tokenizer)
        store.verify()
        store.read(0, store.tokens)
    except DataError:
        assert data != intact[path]
    else:
        assert path.name == "manifest.json" or data == intact[path]
        assert store.fingerprint == original


def test_an_id_beyond_the_vocabulary_is_found_when_it_is_read(folder):
    data = bytearray(shards(folder)[2].read_bytes())
    data[8:10] = (300).to_bytes(2, "little")
    shards(folder)[2].write_bytes(bytes(data))
    store = TokenStore(folder)
    store.read(0, 320)
    with pytest.raises(DataError, match=r"00002-of-00004.bin holds the id 300 at token 4"):
        store.read(320, 330)


def test_a_file_cut_short_while_it_is_open_is_an_error_and_kills_nothing(folder):
    code = f"""
import os, pathlib
from llama_jax.core.errors import DataError
from llama_jax.data.tokens import TokenStore
store = TokenStore(pathlib.Path({str(folder)!r}))
os.truncate({str(shards(folder)[0])!r}, 10)
try:
    store.read(0, 100)
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ends before token 100; it was cut short" in done.stdout
