"""Every published shape of record is read to the text and the answers it stands for."""

import copy
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jax.config.data import SourceConfig, TextConfig
from llama_jax.core.errors import DataError
from llama_jax.data.sources.document import Unreadable
from llama_jax.data.sources.documents import Reader
from llama_jax.data.sources.records import table

FIXTURES = Path(__file__).parents[2] / "fixtures"

EVERYTHING = None
COLOUR = (
    "Definition: Say which colour the thing has.\n\n Positive Example 1 -\nInput: Thing: grass.\n"
)
COLOUR += " Output: green.\n\nNow complete the following example -\nInput: Thing: "
SUM = "Definition: Add the two numbers.\n\n Positive Example 1 -\nInput: 1 and 2.\n Output: 3.\n\n"
SUM += " Positive Example 2 -\nInput: 2 and 2?\n Output: 4.\n\n"
SUMMARY = "\n\nQ: Can you write an appropriate summary of the above paragraphs?\nA: "
# Fixture, settings of the source, and for each of its texts: how it reads, and what is learned.
SHAPES = {
    "long_data_collections": (
        {},
        [
            ("Paper text.\nAbstract: it is short.", EVERYTHING),
            ("Fill in the missing words: a ... c\nwords 1: b", EVERYTHING),
            ("No metadata at all.", EVERYTHING),
        ],
    ),
    "booksum_completion": (
        {"record": "prompt_completion"},
        [(f"Chapter: Rain fell.{SUMMARY}It rained.", [" It rained."])],
    ),
    "natural_instructions_1": (
        {"record": "natural_instructions"},
        [
            (f"{COLOUR}a lemon.\nOutput: yellow", ["yellow"]),
            (f"{COLOUR}snow.\nOutput: white", ["white"]),
        ],
    ),
    "natural_instructions_2": (
        {"record": "natural_instructions"},
        [(f"{SUM}Now complete the following example -\nInput: 4 and 5.\nOutput: nine", ["nine"])],
    ),
    "p3": (
        {"record": "p3"},
        [
            ("Is tea hot? Yes or no?\nYes", ["Yes"]),
            ("Translate 'hus'.\nhouse", ["house"]),
            ("Which is wet?\nsea", ["sea"]),
        ],
    ),
    "pile": ({}, [("The assay was repeated.", EVERYTHING)]),
    "web": ({"field": "content"}, [("Une vieille barque.", EVERYTHING)]),
    "fanfics": ({"field": "TEXT"}, [("Chapter 1\nThe cat met the dragon.", EVERYTHING)]),
    "orca_chat": (
        {"record": "orca_chat"},
        [
            (
                "<human>: Be brief.\n\nName a river.\n<bot>: The Elv.\n"
                "<human>: And a hill?\n<bot>: Dun.",
                ["The Elv.", "Dun."],
            ),
            ("<human>: Hi\n<bot>: Hello", ["Hello"]),
        ],
    ),
    "sharegpt": (
        {"record": "sharegpt"},
        [
            (
                "<human>: Hi\n<bot>: Hello there.\n<human>: Bye\n<bot>: See you.",
                ["Hello there.", "See you."],
            ),
            (
                "<bot>: (of an earlier page)\n<human>: Go on\n<bot>: So it ended.\n<human>: Thanks",
                ["So it ended."],
            ),
        ],
    ),
    "messages": (
        {"record": "messages"},
        [("<human>: Be brief.\n\nName a river.\n<bot>: The Elv.", ["The Elv."])],
    ),
    "open_assistant": (
        {"record": "open_assistant"},
        [
            ("<human>: Hi\n<bot>: Hello\n<human>: How?\n<bot>: Well.", ["Hello", "Well."]),
            ("<human>: Hi\n<bot>: Hey", ["Hey"]),
        ],
    ),
    "instruction": (
        {"record": "instruction"},
        [
            ("<human>: Add the numbers.\n\n1 and 2\n<bot>: 3", ["3"]),
            ("<human>: Say hi.\n<bot>: Hi.", ["Hi."]),
        ],
    ),
    "own": (
        {
            "record": "template",
            "template": "{{{meta.title}}} {question}\n{answers.0}. {why} ({id})",
            "learn": ("answers.0", "why"),
        },
        [("{Tides} What moves the sea?\nthe moon. It pulls. (3)", ["the moon", "It pulls."])],
    ),
    "booksum/alignments": (
        {"record": "booksum"},
        [
            (
                f"Chapter: It was dark.\n\nThen it was not.{SUMMARY}A lamp is lit.\nAll is well.",
                ["A lamp is lit.\nAll is well."],
            ),
            (f"Chapter: Morning came.{SUMMARY}It is morning.", ["It is morning."]),
            (
                f"Chapter: It was dark.\n\nThen it was not.{SUMMARY}A short book.",
                ["A short book."],
            ),
        ],
    ),
}


def read(fixture, on_error="stop", **source):
    path = FIXTURES / fixture
    path = path if path.suffix else path.with_suffix(".jsonl")
    return Reader(SourceConfig(path=str(path), **source), TextConfig(on_error=on_error))


def learned(document):
    if document.answers is EVERYTHING:
        return EVERYTHING
    return [document.text[start:stop] for start, stop in document.answers]


@pytest.mark.parametrize("fixture", SHAPES)
def test_a_record_is_read_to_its_text_and_answers(fixture):
    source, expected = SHAPES[fixture]
    on_error = "skip" if fixture.startswith("booksum/") else "stop"
    assert [(d.text, learned(d)) for d in read(fixture, on_error, **source)] == expected


def test_all_seven_slices_of_redpajama_are_read_with_and_without_meta():
    records = [json.loads(line) for line in (FIXTURES / "redpajama.jsonl").open()]
    found = list(read("redpajama"))
    assert [(d.text, d.answers) for d in found] == [(r["text"], EVERYTHING) for r in records]
    assert [dict(d.meta) for d in found[:6]] == [record["meta"] for record in records[:6]]
    assert {**found[6].meta, "text": found[6].text} == records[6]


def test_meta_may_be_json_in_a_text_and_what_is_not_an_object_stays():
    assert [dict(d.meta) for d in read("long_data_collections")] == [
        {"source": "arxiv_doc_to_abs"},
        {"source": "ul2_plus_oscar_00"},
        {},
    ]
    for odd in ("{", "[1]", None, [1], 3, "[" * 100_000):
        (document,) = table.read(
            table.PARSERS["p3"], {"inputs": "a", "targets": "b", "meta": odd}, ""
        )
        assert document.meta == {"meta": odd}


def test_a_conversation_keeps_its_messages_beside_its_text():
    (system, user, assistant) = next(iter(read("messages", record="messages"))).messages
    assert [m.role for m in (system, user, assistant)] == ["system", "user", "assistant"]
    assert [m.text for m in (system, user)] == ["Be brief.", "Name a river."]
    first, _ = read("instruction", record="instruction")
    assert first.messages == (("user", "Add the numbers.", "1 and 2"), ("assistant", "3", ""))


def test_a_tree_in_which_one_speaks_twice_is_unreadable():
    tree = {"role": "prompter", "text": "a", "replies": [{"role": "prompter", "text": "b"}]}
    with pytest.raises(Unreadable, match="turns out of order"):
        list(table.read(table.PARSERS["open_assistant"], {"prompt": tree}, "x"))


def test_plain_files_are_books_and_papers():
    assert [d.text[:8] for d in read("book.txt")] == ["THE LAMP"]
    (paper,) = read("paper.tex")
    assert paper.text.startswith("\\documentclass") and paper.answers is EVERYTHING


def test_a_question_over_documents_is_learned_from_answer_on_and_names_its_document():
    (document,) = read("multi_document_qa", record="multi_document_qa")
    (answer,) = learned(document)
    assert answer.startswith("Answer: Hafn\nLong Answer: ") and document.text.endswith(answer)
    assert document.text[document.answers[0][0] - 1] == "\n"
    gold, title = document.meta["gold_document"], document.meta["gold_title"]
    assert (gold, title) == (2, "Lantern (boat)")
    assert document.text.splitlines()[1 + gold].startswith(f"Document [{gold}](Title: {title}) ")


def test_what_stands_before_answer_is_not_learned():
    completion = "\n Answer: a\nLong Answer: b\nGold Document ID: 1\n"
    parse = table.PARSERS["multi_document_qa"]
    (document,) = table.read(parse, {**P, "completion": completion}, "x")
    assert document.text == P["prompt"] + completion
    assert learned(document) == [completion.removeprefix("\n ")]


def test_documents_of_one_record_are_numbered_and_others_are_not():
    names = [d.name for d in read("natural_instructions_1", record="natural_instructions")]
    assert names == ["natural_instructions_1.jsonl:1#0", "natural_instructions_1.jsonl:1#1"]
    names = [d.name for d in read("sharegpt", record="sharegpt")]
    assert names == ["sharegpt.jsonl:1", "sharegpt.jsonl:2"]


def test_a_record_without_a_text_is_counted():
    wrong_choices = read("p3", record="p3")
    assert len(list(wrong_choices)) == 3
    assert wrong_choices.dropped == {"empty": 1}


P = {"prompt": "p\n\nDocument [1](Title: T) x\n\nQuestion: q\n"}
TALK = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
TASK = {"Definition": "d", "Positive Examples": [], "Instances": [{"input": "i", "output": "o"}]}
WRONG = [
    ("text", {"body": "x"}, "no field"),
    ("text", {"text": ["x"]}, "not a text"),
    ("text", {"text": "a\ud800"}, "half a character"),
    ("text", ["x"], "not an object"),
    ("prompt_completion", {"prompt": "a"}, "no field"),
    ("prompt_completion", {"prompt": "a", "completion": "b", "text": "a b"}, "parts disagree"),
    ("prompt_completion", {"prompt": "a", "completion": "\n"}, "no answer"),
    ("multi_document_qa", {**P, "completion": "So: a\nGold Document ID: 1"}, "no answer"),
    ("multi_document_qa", {**P, "completion": "Answer: a"}, "no gold document"),
    (
        "multi_document_qa",
        {**P, "completion": "Answer: a\nGold Document ID: 2"},
        "no gold document",
    ),
    (
        "multi_document_qa",
        {**P, "completion": "Answer: a\nGold Document ID: 0"},
        "no gold document",
    ),
    ("natural_instructions", TASK | {"Instances": 1}, "not a list"),
    ("natural_instructions", TASK | {"Instances": [1]}, "not an object"),
    ("natural_instructions", TASK | {"Instances": [{"input": "i", "output": []}]}, "no answer"),
    ("natural_instructions", TASK | {"Examples": 3}, "not an object"),
    ("natural_instructions", TASK | {"Definition": None}, "not a text"),
    ("p3", {"inputs": [1, 2], "targets": [3]}, "not a text"),
    ("p3", {"inputs": "a", "targets": " \n"}, "no answer"),
    ("sharegpt", {"conversations": [{"from": "narrator", "value": "a"}]}, "unknown speaker"),
    ("sharegpt", {"conversations": TALK["conversations"][:1]}, "no answer"),
    ("sharegpt", {"conversations": TALK["conversations"][1:]}, "no answer"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a\udfff"}]}, "half a character"),
    ("orca_chat", {"conversation": [{"input": "a"}]}, "no field"),
    ("orca_chat", {"instruction": 3, "conversation": []}, "not a text"),
    ("booksum", {"chapter_path": "c.txt", "summary_path": "s.txt"}, "no text file"),
    ("booksum", {"book_path": "../c.txt", "summary_path": "s.txt"}, "outside the folder"),
    ("booksum", {"book_path": "/etc/hostname", "summary_path": "s.txt"}, "outside the folder"),
    ("booksum", {"book_path": "a" * 300, "summary_path": "s.txt"}, "no text file"),
    ("booksum", {"book_path": "a\0b", "summary_path": "s.txt"}, "no text file"),
    ("template", {"a": [], "b": "x"}, "not a text"),
    ("template", {"a": True, "b": "x"}, "not a text"),
    ("template", {"a": "x", "b": "x", "meta": []}, "no field"),
    ("template", {"a": "", "b": "x", "meta": {"c": [" "]}}, "no answer"),
]


def parser(record, tmp_path):
    own = {"template": "{a} {b} {meta.c.0}", "learn": ("a", "meta.c.0")}
    settings_ = own if record == "template" else {}
    return table.parser(SourceConfig(path=str(tmp_path), record=record, **settings_))


@pytest.mark.parametrize(("record", "value", "reason"), WRONG)
def test_a_wrong_shape_is_a_reason(record, value, reason, tmp_path):
    with pytest.raises(Unreadable) as caught:
        list(table.read(parser(record, tmp_path), value, "x"))
    assert caught.value.reason == reason
    assert str(caught.value.details)


@pytest.mark.parametrize("nothing", ["-", ["-"], []])
def test_a_task_may_have_no_positive_examples(nothing):
    for task in (
        TASK | {"Positive Examples": nothing},
        TASK | {"Examples": {"Positive Examples": nothing}},
    ):
        (document,) = table.read(table.PARSERS["natural_instructions"], task, "x")
        expected = "Definition: d.\n\nNow complete the following example -\nInput: i.\nOutput: o"
        assert document.text == expected


def test_a_wrong_record_stops_with_its_place_or_is_counted(tmp_path):
    lines = [TALK, {"conversations": []}, TALK]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"x.jsonl, line 2: no answer: .*on_error='skip'"):
        list(read(path, record="sharegpt"))
    skipping = read(path, "skip", record="sharegpt")
    assert [document.name for document in skipping] == ["x.jsonl:1", "x.jsonl:3"]
    assert skipping.dropped == {"no answer": 1}


def test_missing_texts_of_booksum_are_one_sentence_or_counted():
    message = r"line 4: no text file: there is no 'summaries/lost.txt' in .*fixtures/booksum; the"
    with pytest.raises(DataError, match=message):
        list(read("booksum/alignments", record="booksum"))
    skipping = read("booksum/alignments", "skip", record="booksum")
    assert len(list(skipping)) == 3
    assert skipping.dropped == {"no text file": 1}


NAMES = [*table.CONFIGURED, *table.PARSERS]
FIELDS = sorted(
    {"text", "prompt", "completion", "a", "b", "meta", "metadata", "c", "inputs", "targets"}
    | {"Definition", "Examples", "Positive Examples", "Instances", "input", "output", "from"}
    | {"conversations", "value", "conversation", "instruction", "chapter_path", "summary_path"}
    | {"inputs_pretokenized", "targets_pretokenized", "is_correct", "book_path"}
)
TEXTS = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(
    ["-", "Answer: x\nGold Document ID: 1", "\nDocument [1](Title: x", "human", "gpt", "system"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | TEXTS, inner, max_size=6)
    ),
    max_leaves=20,
)


def check_is_read_or_unreadable(parse, value):
    try:
        documents = list(table.read(parse, value, "x"))
    except Unreadable as problem:
        assert problem.reason and problem.details
        return
    for document in documents:
        document.text.encode()
        spans = document.answers or ()
        assert all(0 <= start < stop <= len(document.text) for start, stop in spans)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("record", NAMES)
def test_any_json_is_read_or_unreadable(record, tmp_path):
    parse = parser(record, tmp_path)

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES))
    def check(value):
        check_is_read_or_unreadable(parse, value)

    check()


REMOVED = object()
ODD = [None, True, 3, 1.5, "", "x", "a\ud800", [], [None], ["-"], [[]], {}, {"x": [{}]}, "{"]


def paths(value):
    """Yields where in a record something stands, as keys from the outside in."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (key,)
        if isinstance(inner, dict | list):
            yield from ((key, *path) for path in paths(inner))


def changed(record, path, change):
    """Returns the record with another thing at `path`, or without it."""
    record = holder = copy.deepcopy(record)
    for key in path[:-1]:
        holder = holder[key]
    if change is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = change
    return record


@pytest.mark.parametrize("fixture", [*SHAPES, "redpajama", "multi_document_qa"])
def test_a_record_of_which_one_part_is_odd_is_read_or_unreadable(fixture):
    others = {"redpajama": {}, "multi_document_qa": {"record": "multi_document_qa"}}
    source = others[fixture] if fixture in others else SHAPES[fixture][0]
    path = FIXTURES / f"{fixture}.jsonl"
    parse = table.parser(SourceConfig(path=str(path), **source))
    for record in map(json.loads, path.open()):
        for place, odd in itertools.product(paths(record), [*ODD, REMOVED]):
            check_is_read_or_unreadable(parse, changed(record, place, odd))


def test_an_unknown_shape_names_the_known_ones():
    with pytest.raises(ValueError, match=r"record is 'sharegtp'; it must be .* Did you mean 'sha"):
        read("sharegpt", record="sharegtp")
    with pytest.raises(ValueError, match=r"'text', 'template', .*'instruction'\.$"):
        read("sharegpt", record="zzz")


@pytest.mark.parametrize("template", ["{", "a}", "{a}}", "{}", "words", "{a{b}}"])
def test_a_template_with_a_lone_brace_or_no_field_is_refused(template):
    with pytest.raises(ValueError, match="it must hold fields such as"):
        read("own", record="template", template=template)


def test_a_learned_field_must_be_in_the_template():
    with pytest.raises(ValueError, match=r"learn names 'why'; it must be one of .* 'question'\."):
        read("own", record="template", template="{question}", learn=("why",))


def test_a_template_executes_nothing():
    source = {"record": "template", "template": "{question.__class__}"}
    with pytest.raises(DataError, match=r"no field: .*'__class__' is not in it"):
        list(read("own", **source))
    (document,) = read("own", record="template", template="{question}")
    assert document.answers is EVERYTHING
    assert document.meta == {
        "id": 3,
        "title": "Tides",
        "answers": ["the moon", "the sun"],
        "why": "It pulls.",
    }


def test_real_redpajama_is_read(shared):
    for folder in sorted((shared / "data" / "redpajama").iterdir()):
        (path,) = folder.iterdir()
        found = list(Reader(SourceConfig(path=str(path)), TextConfig()))
        assert found and all(d.text and d.meta and d.answers is EVERYTHING for d in found)


def test_real_natural_instructions_are_read(shared):
    parse = table.PARSERS["natural_instructions"]
    for path in sorted((shared / "data" / "natural_instructions").iterdir()):
        task = json.loads(path.read_text())
        found = list(table.read(parse, task, path.name))
        assert len(found) == len(task["Instances"])
        for document, instance in zip(found, task["Instances"], strict=True):
            assert learned(document)[0] in instance["output"]
            assert document.text.endswith("\nOutput: " + learned(document)[0])


def test_real_sharegpt_is_read(shared):
    talks = json.loads((shared / "data/sft/sharegpt/data/dummy_conversation.json").read_text())
    for talk in talks:
        (document,) = table.read(table.PARSERS["sharegpt"], talk, "x")
        said = [turn["value"] for turn in talk["conversations"] if turn["from"] == "gpt"]
        assert learned(document) == said


def test_real_instructions_are_read_by_a_template(shared):
    source = SourceConfig(
        path="", record="template", template="{instruction} {input}\n{output}", learn=("output",)
    )
    parse = table.parser(source)
    for record in json.loads((shared / "data/sft/llama_factory/alpaca_en_demo.json").read_text()):
        (document,) = table.read(parse, record, "x")
        assert learned(document) == [record["output"]]


def test_the_table_of_the_readme_has_every_shape():
    readme = (Path(table.__file__).parents[2] / "README.md").read_text()
    assert all(f"| `{name}`" in readme for name in NAMES)
