"""A small tokenizer in which every letter is a token, with the special tokens of all templates."""

import json

import pytest

from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.text.tokenizer import load_tokenizer
from llama_jax.text.training import train_tokenizer

ADDED = ("<|assistant|>", "<|system|>", "<|prompter|>", "<|im_start|>", "<|im_end|>")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz[]<>/|_#:.,\n0123456789"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerTrainingConfig(vocab=344)
    path.joinpath("tokenizer.model").write_bytes(
        train_tokenizer([LETTERS, *["S Q R A B"] * 50], config)
    )
    size = load_tokenizer(path).vocab_size
    ids = {name: size + i for i, name in enumerate(ADDED)}
    path.joinpath("added_tokens.json").write_text(json.dumps(ids))
    return path


@pytest.fixture(scope="session")
def tokenizer(folder):
    return load_tokenizer(folder)
