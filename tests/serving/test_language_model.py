import numpy as np
import pytest

import llama_jax
from llama_jax.config.generate import GenerateConfig

DRAWN = {"temperature": 1.5, "max_new_tokens": 40}
PROMPTS = ["", "the cat", "🦙", " the old mill. café 🦙"]


@pytest.fixture(scope="module")
def model(run):
    return llama_jax.load(run)


def test_a_really_trained_model_tells_its_published_story(shared):
    folder = shared / "weights/stories260K"
    model = llama_jax.load(folder / "hf", tokenizer=folder / "tok512.model")
    # Published as printed by llama2.c: 256 tokens after BOS, and the end of the line.
    story = model.generate("", max_new_tokens=256) + "\n"
    assert story.encode() == (folder / "expected_greedy.txt").read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_streamed_pieces_are_the_generated_text(model, seed):
    for prompt in PROMPTS:
        for stop in ((), ("e", "th")):
            settings = {**DRAWN, "seed": seed, "stop": stop}
            pieces = list(model.stream(prompt, **settings))
            assert "".join(pieces) == model.generate(prompt, **settings)
            assert all(pieces)


@pytest.mark.parametrize("seed", range(3))
def test_prompt_and_continuation_are_the_decoded_whole(model, seed):
    for prompt in PROMPTS:
        ids = model.tokenizer.encode(prompt, bos=True)
        text = model.generate(prompt, **DRAWN, seed=seed)
        settings = GenerateConfig(**DRAWN, seed=seed)
        blocks = model._generator.continuations([ids], settings)
        whole = [*ids, *(token for (block,) in blocks for token in block)]
        assert prompt + text == model.tokenizer.decode(whole)


def test_a_list_gives_the_text_of_each_prompt(model):
    texts = model.generate(PROMPTS, **DRAWN)
    assert texts == [model.generate(prompt, **DRAWN) for prompt in PROMPTS]
    assert model.generate([]) == []


def test_a_text_ends_before_its_stop_string(model):
    text = model.generate("the cat", **DRAWN)
    middle = text[len(text) // 2 :][:3]
    assert model.generate("the cat", **DRAWN, stop=middle) == text[: text.find(middle)]
    texts = model.generate(["the cat", "🦙"], **DRAWN, stop=[middle])
    assert texts[0] == text[: text.find(middle)]


def test_a_later_token_does_not_change_an_earlier_logit(model):
    logits = model.logits([1, 5, 9])
    assert logits.shape == (3, model.config.vocab)
    both = model.logits([[1, 5, 9], [1, 5, 30]])
    np.testing.assert_array_equal(both[0, :2], both[1, :2])
    np.testing.assert_allclose(both[0], logits, atol=1e-5)
    assert np.abs(both[0, 2] - both[1, 2]).max() > 0.1


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([], "token_ids must be one or more integers"),
        ([0.5], "token_ids must be one or more integers"),
        ([1] * 65, "token_ids has rows of 65 tokens; the model has a context of 64"),
        ([1, 320], r"token_ids has ids from 1 to 320; they must be in \[0, 320\)"),
        ([-1], "token_ids has ids from -1 to -1"),
    ],
)
def test_ids_that_are_none_are_refused(model, ids, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.logits(ids)


def test_mistakes_are_told_before_the_first_piece(model):
    with pytest.raises(ValueError, match=r"the prompt has .* leaves no room"):
        model.stream("the cat " * 50)
    with pytest.raises(ValueError, match="temperature is -1"):
        model.stream("the cat", temperature=-1.0)
