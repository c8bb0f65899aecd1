"""A whole recipe: what is cleaned, found twice, or in an evaluation set is left out and counted."""

import collections
import dataclasses
import json
import random
from pathlib import Path

import pytest

from llama_jax import prepare
from llama_jax.config.building import BuildConfig
from llama_jax.config.cleaning import (
    DecontaminateConfig,
    DedupConfig,
    FilterConfig,
    MinHashConfig,
    SimHashConfig,
)
from llama_jax.config.prepare import (
    ExecutorConfig,
    PrepareConfig,
    PrepareSourceConfig,
    TokenizerTrainingConfig,
)
from llama_jax.core.errors import DataError
from llama_jax.data.preparation import executors
from llama_jax.data.preparation.job import Job
from llama_jax.data.recipes.ul2_text import dialogue
from llama_jax.data.tokens import TokenStore
from llama_jax.text.tokenizer import load_tokenizer


def words(seed, count=120):
    random_ = random.Random(seed)
    return " ".join("".join(random_.choices("abcdefghij", k=4)) for _ in range(count))


# In the order of files and lines: what becomes of each text.
TEXTS = {
    "a.jsonl": [("kept", words(1)), ("short", "too few words"), ("kept", words(2))],
    "b.jsonl": [("equal", words(1)), ("near", words(2).replace(" ", " extra ", 1))],
    "c.jsonl": [("kept", words(3)), ("tested", words(4)), ("equal", words(3))],
    "d.jsonl": [("kept", words(5)), ("near", words(5).replace(" ", " extra ", 1))],
}


@pytest.fixture
def config(tmp_path):
    for name, texts in TEXTS.items():
        lines = [json.dumps({"text": text}) for _, text in texts]
        (tmp_path / "documents").mkdir(exist_ok=True)
        (tmp_path / "documents" / name).write_text("\n".join(lines))
    (tmp_path / "sets").mkdir()
    question = " ".join(words(4).split()[20:60]).upper()
    (tmp_path / "sets/exam.jsonl").write_text(json.dumps({"question": question}))

    def make(
        output="out",
        part_megabytes=100.0,
        methods=(),
        sets=True,
        min_words=100,
        build=None,
        record="text",
        **executor,
    ):
        minhash = MinHashConfig(buckets=6, hashes=4) if "minhash" in methods else MinHashConfig()
        simhash = SimHashConfig(shingle=2, distance=9) if "simhash" in methods else SimHashConfig()
        deduplicate = DedupConfig(methods=methods, minhash=minhash, simhash=simhash)
        return PrepareConfig(
            output=str(tmp_path / output),
            sources={
                "web": PrepareSourceConfig(
                    path=str(tmp_path / "documents"),
                    filters=FilterConfig(min_words=min_words),
                    deduplicate=deduplicate,
                    build=build or BuildConfig(),
                    record=record,
                )
            },
            decontaminate=DecontaminateConfig(sets=str(tmp_path / "sets") if sets else ""),
            tokenizer_training=TokenizerTrainingConfig(vocab=330, megabytes=0.1),
            held_out=0.0,
            executor=ExecutorConfig(part_megabytes=part_megabytes, **executor),
        )

    return make


def written(config):
    """Returns the texts of the output, sorted."""
    output = Path(config.output)
    tokenizer = load_tokenizer(output / "tokenizer")
    store = TokenStore(output / "web" / "train", tokenizer)
    ranges = zip(store.offsets[:-1], store.offsets[1:], strict=True)
    return sorted(tokenizer.decode(store.read(*range_)) for range_ in ranges)


def texts(*kinds):
    return sorted(text for file in TEXTS.values() for kind, text in file if kind in kinds)


def test_filtered_and_contaminated_documents_are_left_out_and_counted(config):
    prepare.prepare(config())
    assert written(config()) == texts("kept", "equal", "near")
    output = Path(config().output)
    report = json.loads((output / "report.json").read_text())["web"]
    assert report["dropped"] == {"contaminated": 1, "too few words": 1}
    assert report["documents"] == 8 and report["words"] >= 8 * 120
    found = json.loads((output / "contamination.json").read_text())
    assert [hit["document"] for hit in found["hits"]] == ["web/c.jsonl:2"]
    assert found["documents_removed"] == 1
    manifest = json.loads((output / "web/train/manifest.json").read_text())
    assert manifest["dropped"] == report["dropped"]


@pytest.mark.parametrize(
    ("methods", "gone"),
    [
        (("exact",), {"equal"}),
        (("minhash",), {"equal", "near"}),
        (("simhash",), {"equal", "near"}),
        (("exact", "minhash"), {"equal", "near"}),
    ],
)
@pytest.mark.parametrize("part_megabytes", [100.0, 1e-4])
def test_the_first_of_those_that_are_alike_is_kept(config, methods, gone, part_megabytes):
    pytest.importorskip("datatrove", reason="datatrove is in the extra [data]")
    settings = config(part_megabytes=part_megabytes, methods=methods)
    prepare.prepare(settings)
    assert written(settings) == texts(*{"kept", "equal", "near"} - gone)
    report = json.loads((Path(settings.output) / "report.json").read_text())["web"]
    assert report["dropped"]["duplicate"] == len(texts(*gone))


def test_what_is_not_installed_is_said_in_a_sentence(config, monkeypatch):
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda name: None)
    said = (
        r"config.sources.web.deduplicate.methods is \('exact',\), which needs datatrove. Type: pip"
    )
    with pytest.raises(ValueError, match=said):
        prepare.prepare(config(methods=("exact",)))
    with pytest.raises(ValueError, match=r"executor.kind is 'local', which needs datatrove. Type"):
        prepare.prepare(config(kind="local", workers=2))


def test_other_evaluation_sets_make_the_parts_again(config, tmp_path):
    prepare.prepare(config())
    (tmp_path / "sets/exam.jsonl").write_text(json.dumps({"question": words(3)}))
    prepare.prepare(config("again"))
    assert written(config("again")) != written(config())


def files_of(config):
    """Returns the written tokens by the names of their files."""
    folder = Path(config.output) / "web" / "train"
    return {path.name: path.read_bytes() for path in folder.glob("*.bin")}


def test_documents_become_dialogues_whatever_the_parts(config, tmp_path):
    with (tmp_path / "documents/d.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": "alone"}))
    made = [
        config(f"out-{size}", size, build=BuildConfig(kind="ul2"), min_words=0)
        for size in (100.0, 1e-4)
    ]
    for each in made:
        prepare.prepare(each)
    assert files_of(made[0]) == files_of(made[1]) != {}
    wanted = [
        dialogue(text, f"{file}:{line}", made[0].seed)
        for file, texts in TEXTS.items()
        for line, (kind, text) in enumerate(texts, start=1)
        if kind != "tested"
    ]
    assert written(made[0]) == sorted(filter(None, wanted))
    report = json.loads((Path(made[0].output) / "report.json").read_text())["web"]
    assert report["documents"] == len(wanted) - wanted.count("")
    assert report["dropped"] == {"contaminated": 1, "too short for UL2": 1 + wanted.count("")}


@pytest.mark.parametrize("shuffle", [True, False])
def test_exactly_so_many_documents_are_drawn_whatever_the_parts(config, shuffle):
    def drawn(output, size, documents):
        settings = config(output, size, min_words=0, sets=False)
        source = dataclasses.replace(settings.sources["web"], documents=documents)
        return dataclasses.replace(settings, sources={"web": source}, shuffle=shuffle)

    asked = [drawn("few", 100.0, 4), drawn("same", 1e-4, 4)]
    for each in asked:
        prepare.prepare(each)
    few, same = map(written, asked)
    everything = [text for file in TEXTS.values() for _, text in file]
    assert few == same and len(few) == 4
    assert collections.Counter(few) <= collections.Counter(everything)
    assert (few == sorted(everything[:4])) is not shuffle
    report = json.loads((Path(asked[0].output) / "report.json").read_text())["web"]
    assert report["dropped"] == {"not drawn": len(everything) - 4}
    with pytest.raises(DataError, match=r"sources.web.documents is 99 but 10 are there for train"):
        prepare.prepare(drawn("many", 1e-4, 99))
    # The parts are kept: another number needs no reading.
    kept = list((Path(asked[0].output).parent / ".many.preparing/parts").iterdir())
    job = Job.start(drawn("many", 1e-4, 5), kept[0].parents[1], Path(asked[0].output) / "tokenizer")
    assert {job.folder(part) for part in job.parts} == set(kept)


def test_answers_become_no_dialogues(config, tmp_path):
    for file in (tmp_path / "documents").iterdir():
        file.write_text(json.dumps({"prompt": words(1), "completion": words(2)}))
    asked = config(build=BuildConfig(kind="ul2"), min_words=0, record="prompt_completion")
    with pytest.raises(DataError, match=r"a.jsonl:1 says which characters are answers"):
        prepare.prepare(asked)


@pytest.mark.parametrize("methods", [(), ("exact",)])
def test_a_part_depends_on_other_files_if_duplicates_are_looked_for(config, tmp_path, methods):
    if methods:
        pytest.importorskip("datatrove", reason="datatrove is in the extra [data]")
    settings = config(part_megabytes=1e-4, methods=methods)
    prepare.prepare(settings)
    tokenizer = Path(settings.output) / "tokenizer"

    def folders():
        job = Job.start(settings, tmp_path / "work", tokenizer)
        return [job.folder(part) for part in job.parts]

    before = folders()
    with open(tmp_path / "documents/d.jsonl", "a") as file:
        file.write("\n")
    changed = [old != new for old, new in zip(before, folders(), strict=True)]
    assert changed == [bool(methods)] * 3 + [True]


@pytest.mark.process
def test_processes_find_the_same_duplicates(config):
    pytest.importorskip("datatrove", reason="datatrove is in the extra [data]")
    settings = config(part_megabytes=1e-4, methods=("exact", "minhash"), kind="local", workers=2)
    prepare.prepare(settings)
    assert written(settings) == texts("kept")


def test_answers_become_weights_beside_the_tokens(tmp_path):
    lines = [{"prompt": f"{words(i, 5)}?", "completion": " yes"} for i in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = PrepareConfig(
        output=str(tmp_path / "out"),
        sources={
            "qa": PrepareSourceConfig(path=str(tmp_path / "a.jsonl"), record="prompt_completion")
        },
        tokenizer_training=TokenizerTrainingConfig(vocab=300, megabytes=0.1),
        held_out=0.0,
    )
    prepare.prepare(config)
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    store = TokenStore(tmp_path / "out/qa/train", tokenizer)
    for i in range(6):
        range_ = store.offsets[i : i + 2].tolist()
        ids, weights = store.read(*range_), store.read_weights(*range_)
        assert tokenizer.decode([int(id) for id in ids[weights == 1]]).strip() == "yes"
        assert weights[-1] == 1 and weights[0] == 0
    store.verify()


def test_documents_lie_in_an_order_that_the_seed_decides(tmp_path):
    texts = [f"document number {i:02}" for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))

    def order(**settings):
        config = PrepareConfig(
            output=str(tmp_path / str(settings)),
            sources={"a": PrepareSourceConfig(path=str(tmp_path / "a.jsonl"))},
            tokenizer_training=TokenizerTrainingConfig(vocab=300, megabytes=0.1),
            held_out=0.0,
            **settings,
        )
        prepare.prepare(config)
        tokenizer = load_tokenizer(Path(config.output) / "tokenizer")
        store = TokenStore(Path(config.output) / "a/train", tokenizer)
        return [tokenizer.decode(store.read(*store.offsets[i : i + 2])) for i in range(40)]

    first, second = order(seed=1), order(seed=2)
    assert order(shuffle=False) == texts
    assert sorted(first) == sorted(second) == texts
    assert len({tuple(texts), tuple(first), tuple(second)}) == 3
