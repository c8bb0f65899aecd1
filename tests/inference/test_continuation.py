import random

import pytest

from llama_jax.inference.continuation import StopStrings


def pushed(stop, pieces):
    strings = StopStrings(stop)
    out = [strings.push(piece) for piece in pieces]
    return out, strings


def test_the_drawing():
    out, strings = pushed(["END"], ["The E", "nd. E", "N", "D!"])
    assert out == ["The ", "End. ", "", ""]
    assert strings.found
    assert strings.finish() == ""


@pytest.mark.parametrize("seed", range(50))
def test_the_text_ends_before_the_first_stop_string_however_it_is_cut(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice("ab\n") for _ in range(40))
    stop = ["".join(rng.choice("ab\n") for _ in range(rng.randint(2, 7))) for _ in range(2)]
    cuts = sorted(rng.sample(range(41), 8))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, 40], strict=True)]
    out, strings = pushed(stop, pieces)
    begins = [text.find(s) for s in stop if s in text]
    assert strings.found == bool(begins)
    # With several strings, the one that is complete first ends the text.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    until = len(text)
    if ends:
        whole = next(k for k in range(len(pieces)) if any(s in "".join(pieces[: k + 1]) for s in stop))
        so_far = "".join(pieces[: whole + 1])
        until = min(so_far.find(s) for s in stop if s in so_far)
    assert "".join(out) + strings.finish() == text[:until]


def test_what_only_begins_like_a_stop_string_is_held_back_and_then_given():
    out, strings = pushed(["stop"], ["a st"])
    assert out == ["a "]
    assert strings.finish() == "st"


def test_without_stop_strings_nothing_is_held_back():
    assert pushed([], ["a", "b"])[0] == ["a", "b"]
