"""Log-probabilities that cannot be right are unusable and say why; others come to the trainer."""

import asyncio
import contextlib
import json
import math
import re
import sqlite3
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import teacher as teachers

from llama_jax import distill
from llama_jax.config.distill import AnswerConfig
from llama_jax.core.errors import RetryError
from llama_jax.distillation import client, logprobs, request
from llama_jax.distillation.answer import Unusable
from llama_jax.distillation.client import Client

ASKED = AnswerConfig(top_logprobs=3, vocab=100, top_k=0)
OPENAI = {"api": "openai"}


def token(number, value, *top):
    """Returns an entry as vLLM writes it."""
    listed = [teachers.weight(*pair) for pair in top]
    return {**teachers.weight(number, value), "top_logprobs": listed}


LISTED = "top_logprobs"
TOP = ((5, -1.0), (6, -2.0), (7, -3.0))
GOOD = token(5, -1.0, *TOP)


def with_top(*top):
    return token(*top[0], *top)


def changed(place, **fields):
    """Returns the good entry with other fields in one of its most probable."""
    top = [{**other, **(fields if i == place else {})} for i, other in enumerate(GOOD[LISTED])]
    return {**GOOD, LISTED: top}


# What stands at a token, and what is said about it.
WRONG_TOKENS = [
    (7, "an entry is no JSON object"),
    ({**GOOD, "token": "Hello"}, "'Hello' is not of the form token_id:N"),
    ({**GOOD, "token": "token_id:1.5"}, "not of the form"),
    ({**GOOD, "token": "token_id:٥"}, "not of the form"),
    ({**GOOD, "token": "token_id:5\n"}, "not of the form"),
    ({**GOOD, "token": "token_id:" + "9" * 5000}, "not of the form"),
    ({**GOOD, "token": 5}, "5 is not of the form"),
    ({**GOOD, "token": ["x"] * 9}, "a list is not of the form"),
    ({**GOOD, "token": "token_id:100"}, "id 100 is none of the student's 100"),
    ({**GOOD, "token": "token_id:-1"}, "id -1 is none of the student's 100"),
    (changed(2, token="token_id:100"), "id 100 is none of the student's 100"),
    (changed(1, token="token_id:-7"), "id -7 is none of the student's 100"),
    (changed(1, token="token_id:7"), "has an id twice"),
    ({**GOOD, "logprob": None}, "logprob None is no finite number"),
    ({**GOOD, "logprob": "-1"}, "logprob '-1' is no finite number"),
    ({**GOOD, "logprob": True}, "logprob True is no finite number"),
    ({**GOOD, "logprob": math.nan}, "logprob nan is no finite number"),
    ({**GOOD, "logprob": -math.inf}, "logprob -inf is no finite number"),
    ({**GOOD, "logprob": -(10**400)}, "is no finite number"),
    ({**GOOD, "logprob": 0.5}, "logprob 0.5 is above 0"),
    ({**GOOD, "logprob": -9999.0}, "-9999.0 is what a host writes that does not know it"),
    ({**GOOD, "logprob": -1.5}, "-1.5 here and -1.0 in top_logprobs"),
    (changed(2, logprob=math.nan), "logprob nan is no finite number"),
    (changed(2, logprob=0.5), "logprob 0.5 is above 0"),
    (with_top((5, -0.5), (6, -0.5), (7, -0.5)), r"the probabilities sum to 1\.8"),
    # The written token counts too, where it is not listed.
    (token(9, -0.5, *TOP), r"the probabilities sum to 1\.1"),
    ({**GOOD, LISTED: None}, "top_logprobs is no list"),
    ({**GOOD, LISTED: 3}, "top_logprobs is no list"),
    ({**GOOD, LISTED: {"token_id:5": -1.0}}, "top_logprobs is no list"),
    ({**GOOD, LISTED: [5, 6, 7]}, "an entry is no JSON object"),
    ({**GOOD, LISTED: []}, "top_logprobs has 0 entries, asked were 3"),
    (with_top(*TOP[:2]), "top_logprobs has 2 entries, asked were 3"),
    (with_top(*TOP, (8, -4.0)), "top_logprobs has 4 entries, asked were 3"),
    (token(9, -4.0, *TOP, (8, -5.0)), "top_logprobs has 4 entries, asked were 3"),
    (with_top(*TOP, (8, -4.0), (9, -5.0)), "top_logprobs has 5 entries, asked were 3"),
]
SAID = [
    (None, "the reply has no log-probabilities"),
    ([], "the reply has no log-probabilities"),
    ({}, "the reply has no log-probabilities"),
    ({"content": None}, "the reply has no log-probabilities"),
    ({"content": {"0": GOOD}}, "the reply has no log-probabilities"),
    ({"content": []}, "the log-probabilities are empty"),
    ({"content": [GOOD] * 9}, "log-probabilities of 9 tokens, but 10 were written"),
    ({"content": [GOOD] * 11}, "log-probabilities of 11 tokens, but 10 were written"),
]
SAID += [({"content": [GOOD, entry, *[GOOD] * 8]}, why) for entry, why in WRONG_TOKENS]


def read(*entries, count=-1, asked=ASKED):
    return logprobs.read({"logprobs": {"content": list(entries)}}, count, asked)


def test_what_is_right_is_read_as_it_stands():
    rare = token(9, -4.5, (9, -4.5), *TOP[:2])  # As vLLM lists one that is none of the first 3.
    found = read(GOOD, rare, count=2)
    assert found == logprobs.Logprobs(
        [5, 9], [-1.0, -4.5], [[5, 6, 7], [9, 5, 6]], [[-1.0, -2.0, -3.0], [-4.5, -1.0, -2.0]]
    )
    assert json.loads(found.text()) == vars(found)


@pytest.mark.parametrize(
    "entry",
    [
        token(9, -4.0, *TOP),  # Not listed at all, as older versions of vLLM had it.
        token(9, -4.0, *TOP, (9, -4.0)),  # One more than was asked for.
        token(9, -4.0, (9, -4.0), *TOP),
        token(0, 0, (0, 0), (99, -9999.0), (1, -3.4e38)),  # Nothing else was possible.
        token(5, -1.0, (5, -1.0005), *TOP[1:]),  # Rounded once more.
        with_top((5, 0.0005), (6, -9.0), (7, -9.0)),
    ],
)
def test_what_hosts_write_in_other_ways_is_right_too(entry):
    assert read(entry).ids == [int(entry["token"][9:])]


@pytest.fixture
def config(serve, settings):
    """A function that starts a teacher and returns settings that ask it for log-probabilities."""

    def make(behave, conversations=(("hello",),), **changes):
        server = serve(behave)
        return server, settings(
            server.url, conversations, teacher=OPENAI, **{"answer": ASKED} | changes
        )

    return make


def spoiled(said):
    """Answers with other log-probabilities."""
    return lambda body: teachers.answer(teachers.say(body), body, change=lambda _: said)


@pytest.mark.parametrize(("said", "why"), SAID, ids=[why[:45] for _, why in SAID])
def test_a_reply_with_anything_else_is_unusable_and_says_why(config, said, why):
    """T7, from the bytes on a connection."""
    _, asked = config(lambda body, _: spoiled(said)(body))
    wanted = request.make(asked.teacher, asked.answer, ["hello"], [])

    async def once():
        async with Client(asked.teacher, asked.answer) as connections:
            return await connections.ask(wanted)

    with pytest.raises(Unusable, match=why) as told:
        asyncio.run(once())
    assert len(str(told.value)) < 200 and "\n" not in str(told.value)


def test_a_place_is_named(config):
    with pytest.raises(Unusable, match="log-probabilities of token 3: id 100"):
        read(GOOD, GOOD, token(100, -1.0, *TOP), GOOD)


def test_ids_are_checked_against_the_students_vocabulary():
    assert read(GOOD, asked=AnswerConfig(top_logprobs=3, vocab=8)).ids == [5]
    with pytest.raises(Unusable, match="id 7 is none of the student's 7"):
        read(GOOD, asked=AnswerConfig(top_logprobs=3, vocab=7))


def test_more_is_read_of_a_reply_that_has_more_to_say():
    """An entry of vLLM's with the longest numbers has less than is allowed for."""
    entry = teachers.weight(999_999, -12.345678901234567)
    assert len(json.dumps({**entry, LISTED: []}).encode()) < client.LARGEST_ENTRY
    assert client.largest_reply(AnswerConfig()) == client.LARGEST_REPLY
    more = client.largest_reply(AnswerConfig(top_logprobs=20, vocab=32000, max_tokens=100))
    assert more == client.LARGEST_REPLY + 100 * 21 * client.LARGEST_ENTRY


def stored(asked):
    """Returns how many answers and conversations the workdir has."""
    path = Path(asked.workdir) / "answers.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [
            database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("answers", "results")
        ]


@pytest.mark.parametrize(
    "why",
    [
        "id 100 is none of the student's 100",
        r"the probabilities sum to 1\.8",
        "the log-probabilities are empty",
        "the reply has no log-probabilities",
        "log-probabilities of 9 tokens, but 10 were written",
        "logprob nan is no finite number",
    ],
)
def test_it_is_asked_again_and_then_recorded_and_the_next_run_continues(config, why):
    """Three attempts at "bad"; nothing of it is kept, and all of the rest."""
    is_wrong, said = True, {why: said for said, why in SAID}[why]

    def behave(body, _):
        is_bad = is_wrong and body["messages"][-1]["content"] == "bad"
        return spoiled(said)(body) if is_bad else teachers.say(body)

    server, asked = config(behave, [["good"], ["first", "bad"]])
    with pytest.raises(RetryError, match=f"1 of 2 conversations failed.*{why}"):
        distill.main(asked)
    [failure] = lines(asked, "failures.jsonl")
    assert failure["turn"] == 2 and re.search(why, failure["reason"])
    assert len(server.calls) == 5 and stored(asked) == [2, 1]
    is_wrong = False
    assert distill.main(asked) == 0
    assert len(server.calls) == 6 and server.calls[-1]["messages"][-1]["content"] == "bad"
    assert stored(asked) == [3, 2] and len(lines(asked, "logprobs.jsonl")) == 2


def lines(asked, name):
    path = Path(asked.workdir) / name
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_wrong_reply_costs_a_second_request_and_nothing_else(config):
    turn = iter(SAID * 2)
    count = len(SAID)
    server, asked = config(
        lambda body, count: teachers.say(body) if count else spoiled(next(turn)[0])(body),
        [[f"q{i}"] for i in range(count)],
    )
    assert distill.main(asked) == 0
    assert len(server.calls) == 2 * count and len(lines(asked, "logprobs.jsonl")) == count


def test_lines_are_those_of_the_texts(config):
    """In the order of ids, turn by turn, the numbers that the host sent."""
    wanted = [["a1", "a2"], ["b1"], ["c1", "c2", "c3"], ["d1"]]
    server, asked = config(lambda body, _: teachers.say(body), wanted)
    assert distill.main(asked) == 0
    sent = {}
    for body in server.calls:
        content = teachers.weights(teachers.say(body), body)["content"]
        sent[teachers.say(body)] = content
    texts, told = lines(asked, "instructions.jsonl"), lines(asked, "logprobs.jsonl")
    assert len(texts) == len(told) == 4
    for text, line in zip(texts, told, strict=True):
        parts = text["text"].split("[/INST]  ")[1:]
        answers = [part.split("  ")[0] for part in parts]
        assert len(answers) == len(line["answers"])
        for answer, found in zip(answers, line["answers"], strict=True):
            content = sent[answer]
            assert found["ids"] == [int(entry["token"][9:]) for entry in content]
            assert found["logprobs"] == [entry["logprob"] for entry in content]
            listed = [entry["top_logprobs"] for entry in content]
            assert found["top_ids"] == [[int(o["token"][9:]) for o in top] for top in listed]
            assert found["top_logprobs"] == [[o["logprob"] for o in top] for top in listed]


def test_they_go_on_where_a_stop_word_cut_the_text(config):
    _, asked = config(lambda *_: "yes [INST] no")
    assert distill.main(asked) == 0
    assert lines(asked, "instructions.jsonl")[0]["text"].endswith("[/INST]  yes")
    assert len(lines(asked, "logprobs.jsonl")[0]["answers"][0]["ids"]) == 10


def test_a_count_that_the_host_does_not_tell_is_not_compared():
    assert read(GOOD, count=-1).ids == read(GOOD, count=1).ids == [5]
    with pytest.raises(Unusable, match="but 0 were written"):
        read(GOOD, count=0)


leaves = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=5)
    | st.integers(-2, 9).map("token_id:{}".format)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(["token", "logprob", "top_logprobs", "content"], inner),
        )
    ),
    max_leaves=20,
)
pairs = st.fixed_dictionaries(
    {"token": st.integers(-1, 8).map("token_id:{}".format), "logprob": st.floats(-9, 0.1)}
)
entries = st.lists(pairs, min_size=2, max_size=3, unique_by=lambda pair: pair["token"]).map(
    lambda top: {**top[0], LISTED: top}
)
FEW = AnswerConfig(top_logprobs=2, vocab=8)
# Nearly right: one field of an entry is something else.
spoiled_entries = st.builds(
    lambda entry, name, value: {**entry, name: value},
    entries,
    st.sampled_from(["token", "logprob", LISTED]),
    leaves | values | st.lists(pairs | values, min_size=2, max_size=3),
)


contents = (values | st.lists(values | entries, max_size=3)).map(lambda it: {"content": it})


@hypothesis.given(values | contents)
def test_no_json_does_anything_else(said):
    choice = json.loads(json.dumps({"logprobs": said}))
    try:
        logprobs.read(choice, -1, FEW)
    except Unusable as error:
        assert "\n" not in str(error)


@hypothesis.given(spoiled_entries)
def test_no_field_does_anything_else(entry):
    try:
        read(json.loads(json.dumps(entry)), asked=FEW)
    except Unusable as error:
        assert "\n" not in str(error)


@hypothesis.given(st.lists(entries, min_size=1, max_size=2))
def test_what_is_read_can_be_trusted(content):
    try:
        found = read(*content, asked=FEW)
    except Unusable:
        return
    for number, value, ids, likely in zip(*vars(found).values(), strict=True):
        together = dict(zip([*ids, number], [*likely, value], strict=True))
        assert all(0 <= i < 8 for i in together) and len(set(ids)) == len(ids) in (2, 3)
        assert sum(map(math.exp, together.values())) <= 1.001
    hypothesis.event("read")
