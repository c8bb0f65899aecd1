"""Rows of a vocabulary go where their names are."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.text import vocabulary
from llama_jax.text.tokenizer import load_tokenizer
from llama_jax.text.training import train_tokenizer


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    model = train_tokenizer([Path(random.__file__).read_text()], TokenizerTrainingConfig(vocab=400))

    def tokenizer(*names):
        folder = tmp_path_factory.mktemp("tokenizer")
        (folder / "tokenizer.model").write_bytes(model)
        ids = {name: 400 + i for i, name in enumerate(names)}
        (folder / "added_tokens.json").write_text(json.dumps(ids))
        return load_tokenizer(folder)

    return tokenizer


def test_added_names_get_new_rows_and_padding_too(make):
    row = vocabulary.rows(make(), make("<a>", "<b>"), 400, 404)
    assert row.tolist() == [*range(400), -1, -1, -1, -1]


def test_permuted_names_take_their_rows_along_and_padding_stays_behind_them(make):
    row = vocabulary.rows(make("<a>", "<b>", "<c>"), make("<c>", "<x>", "<a>"), 406, 406)
    assert row.tolist() == [*range(400), 402, -1, 400, 403, 404, 405]


def test_rows_without_names_follow_the_last_name(make):
    """Those of denoisers are counted from the end of the tokenizer."""
    row = vocabulary.rows(make(), make("<a>"), 410, 411)
    assert row.tolist() == [*range(400), -1, *range(400, 410)]
    assert vocabulary.rows(make("<a>"), make(), 411, 410).tolist() == [
        *range(400),
        *range(401, 411),
    ]


def test_the_same_pieces_in_another_format_are_the_same_names(make, tmp_path):
    from llama_jax.converters import sentencepiece_json

    model = make("<a>")
    shutil.copy(model.files()[0], tmp_path)
    shutil.copy(model.files()[1], tmp_path)
    value, _ = sentencepiece_json.convert(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    row = vocabulary.rows(model, load_tokenizer(tmp_path), 401, 401)
    assert np.array_equal(row, vocabulary.same_rows(401, 401))
