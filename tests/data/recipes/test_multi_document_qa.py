"""The prompts of questions over documents, with their number and the answer's place chosen."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from llama_jax.config.data import QuestionConfig
from llama_jax.data.recipes import multi_document_qa
from llama_jax.data.recipes.multi_document_qa import Found, Question
from llama_jax.data.sources.document import Unreadable
from llama_jax.data.sources.records import table

FIXTURE = Path(__file__).parents[1] / "fixtures" / "lost_in_the_middle.jsonl"
INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant)."
)
TWO = [Found("Otter", "Otters swim."), Found("Pier (long)", "A pier is long.")]
LISTED = "Document [1](Title: Otter) Otters swim.\nDocument [2](Title: Pier (long)) A pier is long."


@pytest.fixture
def record():
    return json.loads(FIXTURE.read_text())


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("plain", f"{INSTRUCTION}\n\n{LISTED}\n\nQuestion: why\nAnswer:"),
        (
            "random_order",
            f"{INSTRUCTION} The search results are ordered randomly.\n\n{LISTED}\n\n"
            "Question: why\nAnswer:",
        ),
        (
            "query_aware",
            f"{INSTRUCTION}\n\nQuestion: why\n\n{LISTED}\n\nQuestion: why\nAnswer:",
        ),
        ("closed_book", "Question: why\nAnswer:"),
    ],
)
def test_the_prompt_of_each_variant(variant, expected):
    assert multi_document_qa.prompt("why", TWO, variant) == expected


def test_the_training_text_is_the_record_that_its_reader_expects(record):
    document = multi_document_qa.training_text(multi_document_qa.read(record), documents=3, gold=1)
    ((start, stop),) = document.answers
    assert document.text[:start] == (
        f"{INSTRUCTION}\n\n"
        "Document [1](Title: Otter) Otters swim.\n"
        "Document [2](Title: Lantern (boat)) The Lantern is a boat. It was built in Hafn.\n"
        "Document [3](Title: Candle) A candle burns.\n\n"
        "Question: where was the lantern built\n"
    )
    assert document.text[start:stop] == (
        "Answer: Hafn\nLong Answer: The Lantern is a boat. It was built in Hafn. It sank.\n"
        "Gold Document ID: 2"
    )
    halves = {"prompt": document.text[:start], "completion": document.text[start:]}
    (again,) = table.read(table.PARSERS["multi_document_qa"], halves, "x")
    assert (again.text, again.answers) == (document.text, document.answers)
    assert again.meta == {name: document.meta[name] for name in ("gold_document", "gold_title")}


@pytest.mark.parametrize("documents", [1, 2, 4])
def test_the_answer_stands_where_it_is_put_and_the_others_in_their_order(record, documents):
    question = multi_document_qa.read(record)
    assert [found.title for found in question.others] == ["Otter", "Candle", "Pier"]
    for gold in range(documents):
        found = multi_document_qa.arrange(question, documents, gold)
        assert found[gold] == question.gold
        assert found[:gold] + found[gold + 1 :] == list(question.others[: documents - 1])


def test_a_place_beyond_the_documents_and_too_few_documents_are_refused(record):
    question = multi_document_qa.read(record)
    for documents, gold in ((3, 3), (3, -1), (0, 0)):
        with pytest.raises(ValueError, match=rf"gold is {gold}; it must be in \[0, {documents}\)"):
            multi_document_qa.arrange(question, documents, gold)
    with pytest.raises(Unreadable, match="too few documents"):
        multi_document_qa.arrange(question, 5, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ctxs": None}, "not a list"),
        ({"ctxs": [3]}, "not an object"),
        ({"ctxs": [{"hasanswer": False}]}, "no field"),
        ({"nq_annotated_gold": []}, "not an object"),
        ({"nq_annotated_gold": {}}, "no field"),
        ({"answers": []}, "no answer"),
        ({"answers": [3]}, "not a text"),
        ({"question": None}, "not a text"),
    ],
)
def test_a_wrong_record_is_a_reason(record, change, reason):
    with pytest.raises(Unreadable) as caught:
        multi_document_qa.read(record | change)
    assert caught.value.reason == reason


def test_another_order_moves_all_but_the_answer():
    found = [Found(str(i), "") for i in range(20)]
    moved = multi_document_qa.reorder(found, 7, 0, "a question")
    assert moved == multi_document_qa.reorder(found, 7, 0, "a question")
    assert moved[7] == found[7] and sorted(moved) == sorted(found)
    assert sum(a == b for a, b in zip(found, moved, strict=True)) < 6
    assert moved != multi_document_qa.reorder(found, 7, 1, "a question")


def test_places_are_spread_over_all_documents():
    config = QuestionConfig(least_documents=10, most_documents=29)
    questions = [Question(f"question {i}", (), "", TWO[0], (TWO[1],) * 50) for i in range(2000)]
    drawn = [multi_document_qa.place(config, question) for question in questions]
    assert {documents for documents, _ in drawn} == set(range(10, 30))
    assert all(0 <= gold < documents for documents, gold in drawn)
    shares = [gold / (documents - 1) for documents, gold in drawn]
    assert 0.48 < sum(shares) / len(shares) < 0.52
    assert min(shares) == 0 and max(shares) == 1
    assert drawn == [multi_document_qa.place(config, question) for question in questions]
    other = dataclasses.replace(config, seed=1)
    assert drawn != [multi_document_qa.place(other, question) for question in questions]


def test_no_more_documents_are_asked_for_than_there_are():
    question = Question("why", (), "", TWO[0], (TWO[1],) * 11)
    for seed in range(50):
        config = QuestionConfig(gold=3, seed=seed)
        documents, gold = multi_document_qa.place(config, question)
        assert 10 <= documents <= 12 and gold == 3
        assert len(multi_document_qa.arrange(question, documents, gold)) == documents
    with pytest.raises(Unreadable, match="12 with the one that answers; it must be 13 or more"):
        multi_document_qa.place(QuestionConfig(least_documents=13), question)


@pytest.mark.parametrize(("documents", "ends"), [(10, (0, 9)), (20, (0, 19))])
def test_the_published_files_are_made_from_each_other(shared, documents, ends):
    def records(gold):
        name = f"nq-open-{documents}_total_documents_gold_at_{gold}.dev60.jsonl.gz"
        with gzip.open(shared / "data" / "lost_in_the_middle" / name) as file:
            return [json.loads(line) for line in file]

    first, last = map(records, ends)
    for source, target, gold in ((first, last, ends[1]), (last, first, ends[0])):
        for one, other in zip(source, target, strict=True):
            found = multi_document_qa.arrange(multi_document_qa.read(one), documents, gold)
            assert found == [Found(ctx["title"], ctx["text"]) for ctx in other["ctxs"]]


def test_real_records_become_training_texts(shared):
    path = shared / "data/lost_in_the_middle/nq-open-20_total_documents_gold_at_0.dev60.jsonl.gz"
    with gzip.open(path) as file:
        records = [json.loads(line) for line in file]
    for record in records:
        document = multi_document_qa.training_text(multi_document_qa.read(record), 15, 11)
        blocks = document.text.split("\n\n")
        assert len(blocks) == 3 and len(blocks[1].splitlines()) == 15
        assert len(blocks[2].splitlines()) == 4
        ((start, _),) = document.answers
        halves = {"prompt": document.text[:start], "completion": document.text[start:]}
        (again,) = table.read(table.PARSERS["multi_document_qa"], halves, "x")
        assert again.meta["gold_title"] == record["nq_annotated_gold"]["title"]
