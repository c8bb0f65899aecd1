"""Pieces of a stream are the text, cut between characters."""

import random

import pytest

from llama_jax.text.stream import TextStream
from llama_jax.text.tokenizer import load_tokenizer

FILES = {
    "sentencepiece": "tokenizers/llama2/tokenizer.model",
    "json": "tokenizers/llama2/llama-test-tokenizer.json",
    "stories": "weights/stories260K/tok512.model",
}


@pytest.fixture(params=FILES)
def tokenizer(request, shared):
    return load_tokenizer(shared / FILES[request.param])


def pieces_of(tokenizer, ids):
    stream = TextStream(tokenizer)
    return [*(stream.push(id) for id in ids), stream.finish()]


@pytest.mark.parametrize("text", ["Say  🦙! é漢\n\n  नमस्ते", " ", "", "  x", "a\tb"])
def test_pieces_of_a_text_are_whole_characters(tokenizer, text):
    pieces = pieces_of(tokenizer, tokenizer.encode(text, bos=True, eos=True))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_drawing(shared):
    tokenizer = load_tokenizer(shared / FILES["sentencepiece"])
    lines = [line.split()[1:] for line in TextStream.__doc__.splitlines() if "   " in line][:2]
    ids = [tokenizer._model.piece_to_id(piece) for piece in lines[0]]
    shown = [piece.replace('""', "").replace("_", " ") for piece in lines[1]]
    assert pieces_of(tokenizer, ids) == [*shown, ""]


def test_pieces_of_any_ids_together_are_their_decoding(tokenizer):
    random_ = random.Random(0)
    common = [*tokenizer.encode("  a\n🦙 b"), 0, 1, 2]
    for _ in range(500):
        ids = [
            random_.choice(
                [random_.randrange(3, 259), random_.choice(common), random_.randrange(-2, 32_010)]
            )
            for _ in range(random_.randrange(12))
        ]
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_an_id_without_text_does_not_cost_the_next_word_its_space():
    class Words:
        """Strips the first space, as sentencepiece does; 0 stands for nothing."""

        def decode(self, ids):
            return "".join(["", " a", " b"][id] for id in ids).removeprefix(" ")

        def is_control(self, id):
            return False

        def is_byte(self, id):
            return False

    assert pieces_of(Words(), [1, 0, 2, 0, 0, 1]) == ["a", "", " b", "", "", " a", ""]


def test_text_is_shown_as_soon_as_it_is_certain(tokenizer):
    stream = TextStream(tokenizer)
    shown = [stream.push(id) for id in tokenizer.encode("one two three")]
    assert "".join(shown) == "one two three"
    assert sum(map(bool, shown)) > 2
