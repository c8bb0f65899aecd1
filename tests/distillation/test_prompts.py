"""The template, space by space."""

import hypothesis
import hypothesis.strategies as st

from llama_jax.distillation import prompts

TURNS = ["first", "second"]
ANSWERS = ["one", "two"]


def test_the_prompt_of_the_released_script():
    assert prompts.join(TURNS, ["one"]) == (
        "  [INST]  first  [/INST]  one  [INST]  second  [/INST]  "
    )


def test_the_line_of_the_released_training_file():
    """Outer spaces are stripped, and four stand before a later [INST]."""
    assert prompts.line(TURNS, ANSWERS) == (
        "[INST]  first  [/INST]  one    [INST]  second  [/INST]  two"
    )


texts = st.text(alphabet="ab [IN", max_size=8).filter(lambda text: not prompts.marker_in(text))


@hypothesis.given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_splitting_undoes_joining(pairs):
    turns, answers = zip(*pairs, strict=True)
    assert prompts.split(turns, prompts.join(turns, answers)) == list(answers)


def test_a_text_of_other_turns_is_not_split():
    text = prompts.join(TURNS, ANSWERS)
    assert prompts.split(["other", "second"], text) is None
    assert prompts.split(["first", "other"], text) is None
    assert prompts.split(TURNS, "") is None
    assert prompts.split(TURNS, text) == ANSWERS


def test_words_of_the_template_are_found():
    assert prompts.marker_in("a [/INST] b") == "[/INST]"
    assert prompts.marker_in("a [INST] b") == "[INST]"
    assert prompts.marker_in("[inst] INST") == ""
