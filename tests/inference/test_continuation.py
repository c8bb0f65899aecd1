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
    found = [i for i in range(1, 9) if any(s in "".join(pieces[:i]) for s in stop)] + [9]
    read = "".join(pieces[: found[0]])  # Nothing is known of later pieces when one is found.
    until = min([read.find(s) for s in stop if s in read], default=len(text))
    assert strings.found == any(s in text for s in stop)
    assert "".join(out) + strings.finish() == text[:until]


def test_what_only_begins_like_a_stop_string_is_held_back_and_then_given():
    out, strings = pushed(["stop"], ["a st"])
    assert out == ["a "]
    assert strings.finish() == "st"


def test_without_stop_strings_nothing_is_held_back():
    assert pushed([], ["a", "b"])[0] == ["a", "b"]
