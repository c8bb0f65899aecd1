"""Conversations through a chat template into a prepared folder, whole or cut, alone or joined."""

import json
from collections import Counter

import numpy as np
import pytest

from llama_jax import prepare
from llama_jax.config.chat import RECORDS, ChatConfig
from llama_jax.config.data import TextConfig
from llama_jax.config.prepare import ExecutorConfig, PrepareConfig, PrepareSourceConfig
from llama_jax.config.prepare import TokenizerTrainingConfig as Training
from llama_jax.core.errors import DataError
from llama_jax.data.preparation import overlong
from llama_jax.data.preparation.job import Job
from llama_jax.data.preparation.mixing import Mixer
from llama_jax.data.preparation.overlong import Piece
from llama_jax.data.sources.records import table
from llama_jax.data.tokens import TokenStore
from llama_jax.text.chat.chat import load_chat
from llama_jax.text.chat.conversation import Message
from llama_jax.text.tokenizer import load_tokenizer

ADDED = ("<|system|>", "<|prompter|>", "<|assistant|>", "<|im_start|>", "<|im_end|>")
TOPICS = ["rivers", "hills", "lamps", "boats", "bread", "salt"]


def said(i):
    topic = TOPICS[i % len(TOPICS)]
    return [
        ("human", f"Tell me about {topic}, number {i}."),
        ("gpt", f"There are many {topic}. " * (1 + i % 4)),
        ("human", "Go on"),
        ("gpt", f"No, {i} is enough </s>."),
    ]


# Short ones and long ones.
VARIED = [[("human", "Hi"), ("gpt", f"No {i}")] if i % 3 else said(i) for i in range(24)]


@pytest.fixture
def run(tmp_path):
    """Prepares conversations and returns the folder, its documents and its report."""
    number = 0

    def make(conversations=None, text=None, seed=0, files=3, executor=None, **chat):
        nonlocal number
        number += 1
        conversations = [said(i) for i in range(24)] if conversations is None else conversations
        folder = tmp_path / f"in{files}"
        folder.mkdir(exist_ok=True)
        for k in range(files):
            part = conversations[k * len(conversations) // files :][
                : (k + 1) * len(conversations) // files - k * len(conversations) // files
            ]
            lines = [
                json.dumps({"conversations": [{"from": a, "value": b} for a, b in turns]})
                for turns in part
            ]
            (folder / f"{k}.jsonl").write_text("\n".join(lines))
        config = PrepareConfig(
            output=str(tmp_path / f"out{number}"),
            sources={
                "chat": PrepareSourceConfig(
                    path=str(folder), record="sharegpt", chat=ChatConfig(**chat)
                )
            },
            text=text or TextConfig(),
            tokenizer_training=Training(vocab=310, megabytes=0.1),
            added_tokens=ADDED,
            held_out=0.0,
            seed=seed,
            executor=executor or ExecutorConfig(),
        )
        prepare.prepare(config)
        store = TokenStore(tmp_path / f"out{number}/chat/train")
        report = json.loads((tmp_path / f"out{number}/report.json").read_text())["chat"]
        return load_tokenizer(tmp_path / f"out{number}/tokenizer"), documents(store), report, store

    return make


def documents(store):
    edges = [store.offsets[i : i + 2].tolist() for i in range(store.manifest.documents)]
    return [(store.read(*e).tolist(), store.read_weights(*e).tolist()) for e in edges]


def messages(turns):
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return [Message(roles[who], text) for who, text in turns]


@pytest.mark.parametrize("loss", ["all", "completion", "last"])
@pytest.mark.parametrize("template", ["llama2_chat", "oasst", "instruct_training"])
def test_what_is_prepared_is_what_the_template_encodes(template, loss, run):
    tokenizer, found, report, store = run(template=template, loss=loss)
    chat = load_chat(template, tokenizer)
    want = [chat.encode(messages(said(i)), loss) for i in range(24)]
    assert sorted(found) == sorted((e.ids, e.weights.tolist()) for e in want)
    assert report["dropped"] == report["reshaped"] == store.manifest.reshaped == {}
    # "</s>" was typed in every conversation; the only ones that are EOS stand where turns end.
    eos = {"llama2_chat": 2, "oasst": 4, "instruct_training": 1}[template]
    assert all(ids.count(tokenizer.eos_id) == eos for ids, _ in found)


def test_without_a_template_they_are_plain_text(run):
    tokenizer, found, *_ = run()
    assert any(tokenizer.decode(ids).startswith("<human>: Tell me about") for ids, _ in found)
    assert not any(id >= 310 for ids, _ in found for id in ids)


def test_a_jinja_file_does_too(run, tmp_path):
    path = tmp_path / "chat_template.jinja"
    text = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    opening = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    path.write_text(text.replace("\n", "{{ '\\n' }}") + opening.replace("\n", "{{ '\\n' }}"))
    tokenizer, found, *_ = run(template=str(path))
    chat = load_chat("chatml", tokenizer)
    want = [chat.encode(messages(said(i)), bos=False) for i in range(24)]
    assert sorted(found) == sorted((e.ids, e.weights.tolist()) for e in want)


def test_another_text_in_a_template_file_makes_parts_anew(run, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(PLAIN)
    run(template=str(path), loss="all")
    source = PrepareSourceConfig(
        path=str(tmp_path / "in3"), record="sharegpt", chat=ChatConfig(template=str(path))
    )
    config = PrepareConfig(output=str(tmp_path / "o"), sources={"chat": source})
    tokenizer = tmp_path / "out1/tokenizer"
    first = Job.start(config, tmp_path, tokenizer).digest
    assert Job.start(config, tmp_path, tokenizer).digest == first
    path.write_text(PLAIN.replace("\n", " "))
    assert Job.start(config, tmp_path, tokenizer).digest != first


PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def test_a_template_that_always_fails_ends_the_job_soon(run, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text("{{ 'a' * 10**11 }}")
    with pytest.raises(DataError, match=r"more memory than it may have\. So it was 11 times"):
        run(text=TextConfig(on_error="skip", largest_skipped_share=1.0), template=str(path))


def test_what_a_template_refuses_is_left_out_and_counted(run):
    bad = [("human", "Ignore [INST] this"), ("gpt", "No")]
    twice = [("human", "a"), ("human", "b"), ("gpt", "c")]
    many = [said(i) for i in range(24)] + [bad, bad, twice]
    with pytest.raises(DataError, match=r"2.jsonl:7: special tags: Error: special tags are not al"):
        run(many, template="llama2_chat")
    _, found, report, store = run(many, text=TextConfig(on_error="skip"), template="llama2_chat")
    assert len(found) == 24
    assert report["dropped"] == {"special tags": 2, "turns out of order": 1}
    assert store.manifest.dropped == report["dropped"]
    assert (report["read"], report["unreadable"]) == (24, 3)


@pytest.mark.parametrize("files", [1, 3])
def test_long_and_short_ones_do_not_depend_on_parts_or_workers(files, run):
    settings = {"template": "oasst", "max_length": 60, "overlong": "window"}
    settings |= {"mix_length_threshold": 30, "mix_probability": 0.9}
    small = ExecutorConfig(part_megabytes=1e-6)
    _, want, report, _ = run(VARIED, files=files, **settings)
    _, parts, other, _ = run(VARIED, files=files, executor=small, **settings)
    assert (parts, other) == (want, report)
    assert set(report["reshaped"]) >= {"windowed", "joined"}
    _, seeded, _, _ = run(VARIED, files=files, seed=1, **settings)
    assert sorted(seeded) != sorted(want)


@pytest.mark.parametrize("most", [20, 60])
@pytest.mark.parametrize("how", ["truncate", "window", "drop", "split"])
def test_no_document_is_longer_than_allowed_and_each_has_something_to_learn(how, most, run):
    _, found, report, store = run(VARIED, template="oasst", max_length=most, overlong=how)
    assert found and all(len(ids) <= most and any(weights) for ids, weights in found)
    if how == "truncate" and most == 20:  # Every long one begins with a longer question.
        assert report["dropped"] == {"nothing left to be learned": 8}
    counts = Counter(report["dropped"]) + Counter(report["reshaped"])
    assert set(counts) & {"truncated", "windowed", "too long", "split"}
    assert store.manifest.reshaped == report["reshaped"]


def test_a_long_one_is_an_error_unless_a_choice_is_made(run):
    with pytest.raises(DataError, match=r"jsonl:\d+ has \d+ tokens, more than chat.max_length=60"):
        run(template="oasst", max_length=60)


def test_joined_short_ones_lose_no_token(run):
    odd = [said(i) for i in range(23)]
    _, alone, *_ = run(odd, template="oasst")
    _, joined, report, store = run(
        odd, template="oasst", mix_length_threshold=10_000, mix_probability=1.0
    )
    assert len(joined) == 12 and report["reshaped"] == {"joined": 11}
    assert store.manifest.documents == 12 and report["documents"] == 23
    halves = [(len(a[0]), a, b) for a in alone for b in alone]
    whole = {(tuple(a[0] + b[0]), tuple(a[1] + b[1])) for _, a, b in halves}
    whole |= {(tuple(ids), tuple(weights)) for ids, weights in alone}
    assert all((tuple(ids), tuple(weights)) in whole for ids, weights in joined)
    assert sum(len(ids) for ids, _ in joined) == sum(len(ids) for ids, _ in alone)


TEN = Piece(list(range(10)), np.array([0] * 5 + [1] * 5, np.uint8))


def fitted(chance, **settings):
    config = ChatConfig(template="oasst", max_length=4, **settings)
    pieces, done = overlong.fit(TEN, config, chance)
    return [piece.ids for piece in pieces], done


def test_the_drawing_of_what_becomes_of_long_ones():
    always = {"whether": 0.79, "where": 3.5 / 7}.__getitem__
    assert fitted(always, overlong="truncate") == ([[0, 1, 2, 3]], "truncated")
    assert fitted(always, overlong="window") == ([[3, 4, 5, 6]], "windowed")
    assert fitted(always, overlong="split") == ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], "split")
    assert fitted(always, overlong="drop") == ([], "too long")
    never = {"whether": 0.8, "where": 0.5}.__getitem__
    assert fitted(never, overlong="window") == ([[0, 1, 2, 3]], "truncated")


def test_every_window_is_as_likely_and_none_leaves_the_text():
    starts = []
    for i in range(700):
        chance = {"whether": 0.0, "where": i / 700}.__getitem__
        (ids,), _ = fitted(chance, overlong="window")
        assert ids == list(range(ids[0], ids[0] + 4))
        starts.append(ids[0])
    assert Counter(starts) == dict.fromkeys(range(7), 100)


def test_weights_are_cut_with_their_tokens():
    config = ChatConfig(template="oasst", max_length=4, overlong="split")
    pieces, _ = overlong.fit(TEN, config, lambda purpose: 0.0)
    assert [piece.weights.tolist() for piece in pieces] == [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1]]


def test_short_ones_are_joined_only_below_the_threshold_and_the_limit():
    def mixed(**settings):
        written = []
        config = ChatConfig(template="oasst", mix_probability=1.0, **settings)
        mixer = Mixer(config, 0, lambda ids, weights: written.append(ids.tolist()))
        for i, size in enumerate([3, 8, 2, 7, 4]):
            mixer.add(i, np.full(size, i), np.ones(size, np.uint8))
        mixer.finish()
        return written, mixer.joined

    alone = [[1] * 8, [0] * 3 + [2] * 2, [3] * 7, [4] * 4]
    assert mixed(mix_length_threshold=5) == (alone, 1)
    limited = [[0] * 3, [1] * 8, [3] * 7, [4] * 4, [2] * 2]
    assert mixed(mix_length_threshold=5, max_length=5, overlong="drop") == (limited, 0)


def test_a_part_of_the_short_ones_is_joined():
    config = ChatConfig(template="oasst", mix_length_threshold=256, mix_probability=0.4)
    mixer = Mixer(config, 0, lambda ids, weights: None)
    for i in range(2000):
        mixer.add(i, np.zeros(1, np.int32), None)
    assert 360 < mixer.joined < 440  # Two of each five, in pairs.


ASK, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
REPLY = {"role": "assistant", "text": "b"}
SHAPES = {
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "orca_chat": {"conversation": [{"input": "a", "output": "b"}]},
    "messages": {"messages": [ASK, ANSWER]},
    "open_assistant": {"prompt": {"role": "prompter", "text": "a", "replies": [REPLY]}},
    "instruction": {"instruction": "a", "output": "b"},
}


def test_all_shapes_of_conversations_have_messages():
    assert set(SHAPES) == set(RECORDS)
    for name, record in SHAPES.items():
        (document,) = table.read(table.PARSERS[name], record, "x")
        said = [message for message in document.messages if message.text]
        assert said == [("user", "a", ""), ("assistant", "b", "")]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "all"}, "loss is 'all' but template is '', so it has no effect"),
        ({"template": "chatml", "mask": "compat"}, "mask is 'compat' but template is 'chatml'"),
        ({"template": "chatml", "overlong": "drop"}, "overlong is 'drop' but max_length is 0"),
        (
            {"template": "a", "max_length": 9, "overlong": "drop", "window_probability": 0.5},
            "window_probability is 0.5 but overlong is 'drop'",
        ),
        ({"template": "chatml", "mix_probability": 0.5}, "but mix_length_threshold is 0"),
        ({"template": "chatml", "max_length": -1}, "max_length is -1; it must be 0 or more"),
        ({"template": "a", "mix_length_threshold": 9, "mix_probability": 2.0}, "must be in"),
        ({"template": "a", "date": "today"}, "date is 'today'; it must be like 2023-07-18"),
    ],
)
def test_settings_without_effect_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ChatConfig(**settings)


def test_a_template_needs_conversations():
    with pytest.raises(ValueError, match=r"record is 'text' but chat\.template is 'chatml', which"):
        PrepareSourceConfig(path="x", chat=ChatConfig(template="chatml"))
