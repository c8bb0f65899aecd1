"""What `prepare` builds of documents that were kept: from one file each, whatever the parts."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llama_jax import prepare
from llama_jax.config.building import BuildConfig
from llama_jax.config.chat import ChatConfig
from llama_jax.config.cleaning import DecontaminateConfig
from llama_jax.config.data import TextConfig
from llama_jax.config.prepare import ExecutorConfig, PrepareConfig, PrepareSourceConfig
from llama_jax.core.errors import DataError
from llama_jax.core.files import read_json
from llama_jax.data.preparation import building
from llama_jax.data.sources.document import Document
from llama_jax.data.tokens import TokenStore
from llama_jax.text.tokenizer import load_tokenizer

SECRET = "the name of the thirteenth ship that came to the old harbor in spring was Alma"
TEXT = TextConfig(before="\n", add_eos=False)


def p3(file, question, answer="yes", **more):
    return {"inputs": f"{file} {question}", "targets": answer, **more}


def orca(system, question, answer="Because."):
    return {"instruction": system, "conversation": [{"input": question, "output": answer}]}


@pytest.fixture
def prepared(tmp_path, shared):
    """Returns the texts, weights and report of a source whose files hold these records."""

    def make(
        files,
        build,
        record,
        part_megabytes=100.0,
        output="out",
        decontaminate="",
        chat="",
        on_error="stop",
    ):
        for name, records in files.items():
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_text("\n".join(map(json.dumps, records)))
        source = PrepareSourceConfig(
            path=str(tmp_path / "in"), record=record, build=build, chat=ChatConfig(template=chat)
        )
        config = PrepareConfig(
            output=str(tmp_path / output),
            sources={"made": source},
            tokenizer_from="use",
            tokenizer=str(shared / "tokenizers/llama2/tokenizer.model"),
            text=dataclasses.replace(TEXT, on_error=on_error),
            held_out=0.0,
            decontaminate=DecontaminateConfig(sets=decontaminate),
            executor=ExecutorConfig(part_megabytes=part_megabytes),
        )
        prepare.prepare(config)
        return read(Path(config.output))

    return make


def read(output):
    tokenizer = load_tokenizer(output / "tokenizer")
    store = TokenStore(output / "made/train", tokenizer)
    spans = [store.offsets[i : i + 2].tolist() for i in range(store.manifest.documents)]
    ids = [store.read(*span) for span in spans]
    learned = [
        tokenizer.decode(part[store.read_weights(*span) == 1].tolist())
        for part, span in zip(ids, spans, strict=True)
    ]
    texts = [tokenizer.decode(part.tolist()).removeprefix("\n") for part in ids]
    return [len(part) for part in ids], texts, learned, read_json(output / "report.json")["made"]


FILES = {name: [p3(name, f"is {i} even?", f"{i % 2}") for i in range(40)] for name in ("a", "b")}
TALKS = [orca("Be kind.", f"Why does the river flood town {i}?") for i in range(20)]
TALKS += [orca("Be brief.", f"Why does the river flood town {i}?") for i in range(20)]
CASES = {
    "fewshot": (FILES, BuildConfig(kind="fewshot", length=120, form="dialogue"), "p3"),
    "conversations": (
        {"a": TALKS, "b": TALKS},
        BuildConfig(kind="conversations", length=120, similarity=0.0),
        "orca_chat",
    ),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_what_is_built_holds_every_document_once_and_does_not_depend_on_parts(prepared, kind):
    files, build, record = CASES[kind]
    files = {f"{name}.jsonl": records for name, records in files.items()}
    lengths, texts, learned, report = prepared(files, build, record)
    assert (lengths, texts, learned, report) == prepared(files, build, record, 1e-6, "other")
    # BOS and the line end are within the length, and no text could hold another example.
    assert 90 < max(lengths) <= build.length
    assert sum(text.count("<human>:") for text in texts) == 80 == sum(map(len, files.values()))
    assert report["read"] == 80 and report["documents"] == len(texts) < 40
    if kind == "fewshot":
        assert all(("<human>: a is" in text) != ("<human>: b is" in text) for text in texts)
        assert sum(map("".join(learned).count, "01")) == 80
    else:
        assert all(("Be kind." in text) != ("Be brief." in text) for text in texts)
        assert sum(answers.count("Because.") for answers in learned) == 80


def test_joined_conversations_are_measured_and_written_by_their_chat_template(prepared):
    build = BuildConfig(kind="conversations", length=150, similarity=0.0)
    lengths, texts, learned, _ = prepared(
        {"a.jsonl": TALKS}, build, "orca_chat", chat="llama2_chat"
    )
    assert 110 < max(lengths) <= 150 and len(texts) < 40
    assert sum(text.count("[INST]") for text in texts) == 40
    assert all("<human>" not in text and text.count("<<SYS>>") == 1 for text in texts)
    assert sum(answers.count("Because.") for answers in learned) == 40


def test_a_conversation_that_its_template_refuses_is_left_out_and_spoils_no_other(prepared):
    tags = orca("Be kind.", "What does [INST] mean?")
    unanswered = orca("Be kind.", "Why does the river flood town 7?")
    unanswered["conversation"].append({"input": "And the harbor?", "output": " "})
    build = BuildConfig(kind="conversations", length=150, similarity=0.0)
    files = {"a.jsonl": [*TALKS[:10], tags, unanswered, *TALKS[10:20]]}
    settings = {"chat": "llama2_chat", "on_error": "skip"}
    lengths, texts, _, report = prepared(files, build, "orca_chat", **settings)
    assert max(lengths) <= 150 and report["dropped"] == {"special tags": 1}
    assert sum(text.count("[INST]") for text in texts) == 21
    assert not any("harbor" in text for text in texts)


def test_texts_are_not_written_by_a_chat_template():
    with pytest.raises(ValueError, match=r"build.kind is .ul2., which makes texts, not conver"):
        PrepareSourceConfig(
            path="x",
            record="sharegpt",
            build=BuildConfig(kind="ul2"),
            chat=ChatConfig(template="llama2_chat"),
        )


def test_examples_that_repeat_an_evaluation_set_go_before_they_are_packed(prepared, tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/exam.jsonl").write_text(json.dumps({"question": SECRET}))
    files = {"a.jsonl": [*(p3("", f"is {i} even?") for i in range(10)), p3("", SECRET)]}
    build = BuildConfig(kind="fewshot")
    _, texts, _, report = prepared(files, build, "p3", decontaminate=str(tmp_path / "sets"))
    (text,) = texts
    assert text.count("even?") == 10 and "Alma" not in text
    assert report["dropped"] == {"contaminated": 1}


def test_a_file_may_hold_several_tasks(prepared):
    records = [p3("", f"{name} {i}?", task=name) for i in range(8) for name in ("snow", "rain")]
    build = BuildConfig(kind="fewshot", task_field="task", form="dialogue")
    _, texts, *_ = prepared({"a.jsonl": records}, build, "p3")
    assert sorted((text.count("snow"), text.count("rain")) for text in texts) == [(0, 8), (8, 0)]
    build = dataclasses.replace(build, task_field="name")
    with pytest.raises(DataError, match=r"a\.jsonl:1 has no text in 'name', which names its task"):
        prepared({"a.jsonl": records}, build, "p3", output="other")


def test_so_many_examples_at_most_and_characters_for_tokens(prepared):
    files = {"a.jsonl": [p3("", f"is {i} even?") for i in range(10)]}
    build = BuildConfig(kind="fewshot", examples=4, form="dialogue")
    _, texts, *_ = prepared(files, build, "p3")
    assert sorted(text.count("even?") for text in texts) == [2, 4, 4]
    build = BuildConfig(kind="fewshot", length=100, unit="characters", form="dialogue")
    _, texts, *_ = prepared(files, build, "p3", output="other")
    assert 70 < max(map(len, texts)) <= 100


def test_ids_become_no_dialogues():
    ids = Document("a.bin:1", "", ids=np.arange(9))
    with pytest.raises(DataError, match=r"a.bin:1 holds ids and no text, so no dialogue"):
        list(building.build([ids], BuildConfig(kind="ul2"), len, 0, Counter()))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"length": 8192}, "length is 8192 but kind is 'documents', so it has no effect"),
        ({"kind": "ul2", "similarity": 0.5}, "similarity is 0.5 but kind is 'ul2'"),
        ({"kind": "conversations", "task_field": "x"}, "task_field is 'x' but kind is"),
        ({"kind": "fewshot", "similarity": 0.5}, "similarity is 0.5 but kind is 'fewshot'"),
        ({"kind": "fewshot", "length": 0}, "length is 0; it must be at least 1"),
        ({"kind": "fewshot", "examples": 0}, "examples is 0; it must be at least 1, or -1"),
        ({"kind": "conversations", "similarity": 1.5}, "similarity is 1.5; it must be in"),
    ],
)
def test_settings_without_effect_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        BuildConfig(**settings)


@pytest.mark.parametrize("kind", ["fewshot", "conversations"])
def test_nothing_is_built_of_records_that_are_not_its_own(kind):
    with pytest.raises(ValueError, match=f"build.kind is '{kind}' but record is 'text'"):
        PrepareSourceConfig(path="x", build=BuildConfig(kind=kind))
