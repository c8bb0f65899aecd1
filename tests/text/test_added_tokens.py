"""Added tokens are found by name, whatever ids they came to have."""

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.converters import companions, sentencepiece_json
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.text import added_tokens
from llama_jax.text.chat.chat import load_chat
from llama_jax.text.chat.conversation import Message
from llama_jax.text.tokenizer import check_vocabulary, copy_tokenizer, load_tokenizer
from llama_jax.text.training import train_tokenizer

TWO = [Message("user", "Q"), Message("assistant", "A")]
# Of two releases of Open-Assistant's models, by which of the new ids each name has.
RELEASED = {"<pad>": 0, "<|assistant|>": 1, "<|prefix_end|>": 2, "<|system|>": 3,
            "<|prefix_begin|>": 4, "<|prompter|>": 5}  # fmt: skip
OTHER = {"<|system|>": 1, "<|prompter|>": 2, "<|assistant|>": 3}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    model = train_tokenizer([Path(random.__file__).read_text()], TokenizerTrainingConfig(vocab=400))
    (folder / "tokenizer.model").write_bytes(model)
    return folder


@pytest.fixture
def folder(bare, tmp_path):
    shutil.copy(bare / "tokenizer.model", tmp_path)
    return tmp_path


def add(folder, ids):
    size = load_tokenizer(folder).vocab_size
    value = {name: size + place for name, place in ids.items()}
    (folder / "added_tokens.json").write_text(json.dumps(value | {"<s>": 1}))
    return size


@pytest.mark.parametrize("release", [RELEASED, OTHER])
def test_ids_of_a_release_are_resolved_by_name(release, folder):
    size = add(folder, release)
    chat = load_chat("oasst", load_tokenizer(folder))
    found = chat.encode(TWO).ids
    names = ("<|prompter|>", "<|assistant|>")
    assert [found[1], found[found.index(2) + 1]] == [size + release[name] for name in names]
    assert chat.tokenizer.vocab_size == size + max(release.values()) + 1
    assert all(chat.tokenizer.is_control(size + place) for place in release.values())


def test_a_tokenizer_without_them_keeps_its_hash_and_with_them_has_another(folder):
    plain = load_tokenizer(folder)
    (folder / "added_tokens.json").write_text('{"<s>": 1}')
    assert load_tokenizer(folder).sha256 == plain.sha256
    add(folder, OTHER)
    assert load_tokenizer(folder).sha256 != plain.sha256


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_missing_names_get_the_next_ids_and_known_ones_keep_theirs(kind, folder):
    if kind == "tokenizer.json":
        value, _ = sentencepiece_json.convert(folder / "tokenizer.model")
        files.write_json(folder / kind, value)
        (folder / "tokenizer.model").unlink()
    for names in (["<a>", "<b>"], ["<b>", "</s>", "<c>", "<c>"]):
        found = load_tokenizer(folder)
        added_tokens.extend(folder / kind, found.special, found.vocab_size, names)
    after = load_tokenizer(folder)
    assert [after.special[name] for name in ("<a>", "<b>", "<c>")] == [400, 401, 402]
    assert after.vocab_size == 403 and after.encode("S") == load_tokenizer(folder).encode("S")
    assert not any(after.is_control(id) for id in after.encode("<a> </s>"))
    (folder / "copy").mkdir()
    copy_tokenizer(after, folder / "copy")
    assert load_tokenizer(folder / "copy").sha256 == after.sha256


def test_an_exported_tokenizer_has_them_in_transformers_too(folder):
    transformers = pytest.importorskip("transformers")
    from llama_jax.config.model import ModelConfig

    size = add(folder, OTHER)
    model = ModelConfig(
        layers=1, embed=8, mlp=8, heads=1, kv_heads=1, head_dim=8, vocab=416, context=64
    )
    ours = load_tokenizer(folder)
    companions.complete_tokenizer(folder, model)
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    # 400 is nobody's: this release begins with 401.
    assert theirs.convert_tokens_to_ids("<|system|>") == size + 1
    ids = load_chat("oasst", ours).encode(TWO).ids
    text = "<|prompter|>Q</s><|assistant|>A</s>"
    assert theirs(text)["input_ids"] == ids


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"<a>": 399}', "'<a>' has the id 399; a new name must have an unused id, from 400 on"),
        ('{"<a>": "x"}', "has the id 'x'"),
        ('{"<a>": true}', "has the id True"),
        ('{"": 400}', "'' has the id 400"),
        ('{"<s>": 400}', "'<s>' has the id 400"),
        ('{"<a>": 400, "<b>": 400}', "'<b>' and '<a>' both have the id 400"),
        ('{"<a>": 99999999999}', "has the id 99999999999"),
        ("[1]", "must hold a JSON object"),
        ("{", "JSON"),
    ],
)
def test_a_file_that_contradicts_the_tokenizer_is_one_sentence(content, sentence, folder):
    (folder / "added_tokens.json").write_text(content)
    with pytest.raises(DataError, match=sentence):
        load_tokenizer(folder)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=4), VALUES | st.integers(395, 410), max_size=5) | VALUES)
def test_any_json_gives_a_tokenizer_or_a_sentence(bare, value):
    path = bare / "any.json"
    path.write_text(json.dumps(value))
    known = {"<s>": 1, "a": 5}
    try:
        found = added_tokens.read(path, known, 400)
    except DataError:
        return
    assert len(set(found.values())) == len(found) and not set(found) & set(known)
    assert all(400 <= id < 1 << 21 for id in found.values())


def test_a_template_whose_tokens_are_missing_says_what_to_type(bare):
    with pytest.raises(ValueError, match=r"added_tokens=\"\('<\|im_end\|>', '<\|im_start\|>'\)"):
        load_chat("chatml", load_tokenizer(bare))


def test_a_token_that_is_read_out_of_any_text_is_refused(folder):
    value, _ = sentencepiece_json.convert(folder / "tokenizer.model")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for id, name in enumerate(("<|im_start|>", "<|im_end|>"), 400):
        value["added_tokens"].append({"id": id, "content": name, "special": True, **flags})
    files.write_json(folder / "tokenizer.json", value)
    load_chat("chatml", load_tokenizer(folder))
    value["added_tokens"][-1]["special"] = False
    files.write_json(folder / "tokenizer.json", value)
    with pytest.raises(ValueError, match=r"has no special token <\|im_end\|>"):
        load_chat("chatml", load_tokenizer(folder))


def test_a_vocabulary_is_padded_to_a_multiple_of_16(folder):
    assert (added_tokens.padded(32_005), added_tokens.padded(32_000)) == (32_016, 32_000)
    add(folder, RELEASED)
    with pytest.raises(ValueError, match=r"Set config.model.vocab=406 \(or 416, a multiple of 16"):
        check_vocabulary(load_tokenizer(folder), 400)
