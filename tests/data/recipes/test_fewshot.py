"""Examples of a task in one text: every one once, none beyond the length, all answers known."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jax.data.recipes import fewshot
from llama_jax.data.recipes.fewshot import dialogue, tk_instruct
from llama_jax.data.sources.records import p3
from llama_jax.data.sources.records.natural_instructions import read_task
from llama_jax.data.sources.records.task import Example, Task

FIXTURES = Path(__file__).parents[1] / "fixtures"
TASK = Task("sums", "Add", (Example("1+1", "2"),), (Example("2+2", "4"), Example("3+3?", "6")))


def words(text):
    return len(text.split())


def pack(task, form, dropped=None, **options):
    defaults = {"length": 10_000, "measure": words, "most": -1, "seed": 0}
    return list(
        fewshot.pack(
            task, form, **defaults | options, dropped=Counter() if dropped is None else dropped
        )
    )


def learned(document):
    return [document.text[start:stop] for start, stop in document.answers]


def text(pieces):
    return "".join(piece.text for piece in pieces)


def test_the_form_of_tk_instruct():
    pieces = tk_instruct(TASK, TASK.examples)
    assert text(pieces) == (
        "Definition: Add.\n\n"
        " Positive Example 1 -\nInput: 1+1.\n Output: 2.\n\n"
        " Positive Example 2 -\nInput: 2+2.\n Output: 4.\n\n"
        "Now complete the following example -\nInput: 3+3?\nOutput: 6"
    )
    assert [piece.text for piece in pieces if piece.is_learned] == ["4.", "6"]


def test_the_form_of_a_conversation():
    pieces = dialogue(TASK, TASK.examples)
    assert text(pieces) == "<human>: Add\n\n2+2\n<bot>: 4\n<human>: 3+3?\n<bot>: 6"
    assert [piece.text for piece in pieces if piece.is_learned] == ["4", "6"]


def test_p3_is_packed_without_a_definition_and_without_wrong_choices():
    records = [json.loads(line) for line in (FIXTURES / "p3.jsonl").open()]
    task = fewshot.task_of("p3", [each.example for record in records for each in p3.parse(record)])
    (document,) = pack(task, dialogue)
    assert document.text.startswith("<human>: ") and document.text.count("Which is wet?") == 1
    assert sorted(learned(document)) == ["Yes", "house", "sea"]
    (document,) = pack(task, tk_instruct)
    assert document.text.startswith(" Positive Example 1 -\nInput: ")
    assert sorted(answer.rstrip(".") for answer in learned(document)) == ["Yes", "house", "sea"]


EXAMPLES = st.builds(
    Example,
    st.text("ab 1?", max_size=12).map(str.strip),
    st.lists(st.sampled_from(["x", "y", "zz."]), max_size=5).map(" ".join),
)


@pytest.mark.parametrize("form", [tk_instruct, dialogue])
def test_every_example_is_packed_once_and_no_text_is_longer(form):
    @settings(max_examples=80, deadline=None, database=None, derandomize=True)
    @given(st.lists(EXAMPLES, max_size=30), st.integers(1, 80), st.integers(1, 9))
    def check(examples, tokens, most):
        task = Task("t", "Say it", (), tuple(examples))
        usable = fewshot._usable(examples, Counter())
        dropped = Counter()
        found = pack(task, form, dropped, length=tokens, most=most)
        assert all(words(document.text) <= tokens for document in found)
        assert all(document.meta["examples"] <= most for document in found)
        packed = sum(document.meta["examples"] for document in found)
        assert packed == sum(words(text(form(task, [each]))) <= tokens for each in usable)
        assert packed + dropped["too long"] == len(usable)
        assert packed + dropped.total() == len(examples)
        outputs = Counter(output.rstrip(".") for document in found for output in learned(document))
        assert outputs.total() == packed
        assert outputs <= Counter(example.output.rstrip(".") for example in usable)
        assert found == pack(task, form, length=tokens, most=most)

    check()


@pytest.mark.parametrize("form", [tk_instruct, dialogue])
def test_a_text_is_filled_until_the_next_example_does_not_fit(form):
    examples = tuple(Example(f"{i} " * (1 + i % 7), "yes") for i in range(300))
    task = Task("t", "Say yes", (), examples)
    found = pack(task, form, length=200)
    assert sum(document.meta["examples"] for document in found) == 300
    longest = max(words(text(form(Task("", "", (), ()), [each]))) for each in examples)
    assert all(200 - longest < words(document.text) <= 200 for document in found[:-1])


def test_seed_and_name_decide_the_order():
    examples = tuple(Example(str(i), "yes") for i in range(50))
    a, b = Task("a", "", (), examples), Task("b", "", (), examples)
    (first,) = pack(a, dialogue)
    assert [first] == pack(a, dialogue)
    assert first.text != pack(a, dialogue, seed=1)[0].text
    assert first.text != pack(b, dialogue)[0].text
    assert sorted(first.text.splitlines()) == sorted(pack(b, dialogue)[0].text.splitlines())


def test_an_input_that_repeats_the_one_before_is_left_out():
    examples = [Example(*pair) for pair in (("a", "1"), ("a", "2"), ("b", "3"), ("a", "4"))]
    examples += [Example(" ", "5"), Example("c", "")]
    dropped = Counter()
    assert fewshot._usable(examples, dropped) == [examples[0], examples[2], examples[3]]
    assert dropped == {"the question before it again": 1, "no question or no answer": 2}


def test_a_task_gives_at_most_so_many_examples_as_t0_takes(monkeypatch):
    assert fewshot.MOST_OF_A_TASK == 500_000
    monkeypatch.setattr(fewshot, "MOST_OF_A_TASK", 20)
    task = Task("t", "", (), tuple(Example(str(i), "yes") for i in range(100)))
    dropped = Counter()
    (document,) = pack(task, dialogue, dropped)
    assert document.meta["examples"] == 20 and dropped == {"more than is taken of a task": 80}
    drawn = {int(line.split()[1]) for line in document.text.splitlines() if "<human>" in line}
    assert max(drawn) > 40  # From all of it, not the first of it.


@pytest.mark.parametrize("form", [tk_instruct, dialogue])
def test_a_real_task_is_packed_to_its_length_in_tokens(form, shared, tokenizer):
    name = "subtask003_mctaco_question_generation_event_duration.json"
    record = json.loads((shared / "data" / "natural_instructions" / name).read_text())
    task = read_task(record, name)

    def count(text):
        return len(tokenizer.encode(text, True, True))

    most = 20 if form is dialogue else -1
    found = pack(task, form, length=8192, measure=count, most=most)
    lengths = [count(document.text) for document in found]
    assert max(lengths) <= 8192
    if form is tk_instruct:
        assert min(lengths[:-1]) > 7500
    else:
        assert [document.meta["examples"] for document in found[:-1]] == [20] * (len(found) - 1)
    references = {out.strip() for instance in record["Instances"] for out in instance["output"]}
    references |= {f"{reference}." for reference in references}
    assert {answer.strip() for document in found for answer in learned(document)} <= references
