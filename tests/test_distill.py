"""The door of distillation: nothing is asked twice, whatever happens to the process or the host."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import teacher as teachers

from llama_jax import distill
from llama_jax.config import load
from llama_jax.config.distill import AnswerConfig, DistillConfig, TeacherConfig
from llama_jax.core import errors
from llama_jax.core.errors import DataError, RetryError
from llama_jax.distillation import old_database, prompts, request

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "distill_llama2_7b_32k_instruct.py"
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["llama_jax.distill", "httpx"])

THREE = [["a1", "a2"], ["b1", "b2"], ["c1"]]


class Distiller:
    """A workdir, and runs in it: in this process, or in others that may be killed."""

    def __init__(self, folder, teacher):
        self.folder, self.teacher = folder, teacher
        self.workdir, self.log = folder / "work", folder / "log.txt"

    def flags(self, conversations, **settings):
        path = self.folder / "instructions.json"
        path.write_text(json.dumps(conversations))
        settings = {
            "workdir": self.workdir,
            "instructions": path,
            "teacher.url": self.teacher.url,
            "teacher.concurrency": 2,
            "retry.wait": 0.01,
            "retry.attempts": 2,
        } | {name.replace("__", "."): value for name, value in settings.items()}
        return [f"--config.{name}={value}" for name, value in settings.items()]

    def run(self, conversations, **settings):
        """Returns the exit code, in this process; errors come out as they are."""
        config = load.default(DistillConfig(workdir="", instructions="", teacher=RECIPES_TEACHER))
        for flag in self.flags(conversations, **settings):
            path, value = flag.removeprefix("--config.").split("=", 1)
            *sections, last = path.split(".")
            section = config
            for name in sections:
                section = section[name]
            old = section[last]
            section[last] = type(old)(value) if isinstance(old, int | float) else value
        return distill.main(load.parse(DistillConfig, config))

    def start(self, conversations, **settings):
        """Returns a process that runs the command."""
        arguments = ["distill", f"--config={RECIPE}", *self.flags(conversations, **settings)]
        process = SERVER.Process(target=_distill, args=(arguments, self.log, dict(os.environ)))
        process.start()
        return process

    def wait(self, condition, process):
        deadline = time.monotonic() + 60
        while process.is_alive() and not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)

    def asked(self):
        """Returns how often each request was made, by its key."""
        bodies = list(self.teacher.calls)
        return Counter(request.Request("together", body).key for body in bodies)

    def stored(self):
        """Returns the keys of stored answers, read as somebody else."""
        path = self.workdir / "answers.sqlite"
        if not path.exists():
            return set()
        # There may be not even a table yet.
        database = sqlite3.connect(path)
        with contextlib.closing(database), contextlib.suppress(sqlite3.OperationalError):
            return {key for (key,) in database.execute("SELECT key FROM answers")}
        return set()

    def finished(self):
        with contextlib.closing(sqlite3.connect(self.workdir / "answers.sqlite")) as database:
            return [json.loads(turns) for (turns,) in database.execute("SELECT turns FROM results")]

    def output(self):
        return (self.workdir / "instructions.jsonl").read_bytes()


RECIPES_TEACHER = TeacherConfig(model="togethercomputer/llama-2-70b-chat")


def _distill(arguments, log, environment):
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = arguments
    errors.run(distill.start)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts a teacher and returns a Distiller."""
    monkeypatch.setenv("TOGETHER_API_KEY", teachers.KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def make(behave=lambda body, count: teachers.say(body)):
        running.append(teachers.Teacher(behave))
        return Distiller(tmp_path, running[-1])

    yield make
    for teacher in running:
        teacher.close()


def many(count):
    return [[f"question {i}", f"and {i}"] for i in range(count)]


def test_a_conversation_runs_forward(start):
    runs = start()
    assert runs.run(THREE) == 0
    prompts_sent = sorted(body["prompt"] for body in runs.teacher.calls)
    first = "  [INST]  a1  [/INST]  "
    answer = teachers.say({"prompt": first})
    assert first in prompts_sent and f"{first}{answer}  [INST]  a2  [/INST]  " in prompts_sent
    assert len(prompts_sent) == 5
    lines = [json.loads(line)["text"] for line in runs.output().splitlines()]
    second = teachers.say({"prompt": f"{first}{answer}  [INST]  a2  [/INST]  "})
    assert f"[INST]  a1  [/INST]  {answer}    [INST]  a2  [/INST]  {second}" in lines


def test_chat_completions_give_texts_of_the_same_form(start):
    runs = start(lambda body, _: f"reply to {body['messages'][-1]['content']}")
    assert runs.run(THREE, teacher__api="openai", answer__top_k=0) == 0
    lines = {json.loads(line)["text"] for line in runs.output().splitlines()}
    assert "[INST]  b1  [/INST]  reply to b1    [INST]  b2  [/INST]  reply to b2" in lines
    said = [[turn["content"] for turn in body["messages"]] for body in runs.teacher.calls]
    assert ["a1", "reply to a1", "a2"] in said and "top_k" not in runs.teacher.calls[0]


def test_a_conversation_that_fails_is_asked_again_from_where_it_failed(start, capsys):
    """Three conversations, one fails at turn 2: two rows, then one more request."""
    broken = threading.Event()
    broken.set()

    def behave(body, _):
        if "b2" in body["prompt"] and broken.is_set():
            return teachers.reply(b"busy", 503)
        return teachers.say(body)

    runs = start(behave)
    with pytest.raises(RetryError, match=r"1 of 3 conversations failed.*HTTP 503: busy"):
        runs.run(THREE)
    assert len(runs.finished()) == 2 and runs.output().count(b"\n") == 2
    [failure] = (runs.workdir / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["turn"] == 2 and "503" in json.loads(failure)["reason"]
    before = len(runs.teacher.calls)
    broken.clear()
    assert runs.run(THREE) == 0
    [call] = runs.teacher.calls[before:]
    assert "b2" in call["prompt"] and len(runs.finished()) == 3
    assert (runs.workdir / "failures.jsonl").read_text() == ""
    assert runs.run(THREE) == 0 and len(runs.teacher.calls) == before + 1
    assert "3 of them answered before" in capsys.readouterr().out


def test_the_order_of_completion_changes_no_byte(start, tmp_path):
    chance = random.Random(0)

    def slowly(body, _):
        time.sleep(chance.uniform(0, 0.02))
        return teachers.say(body)

    runs = start(slowly)
    runs.run(many(12), teacher__concurrency=8)
    side_by_side = runs.output()
    runs.run(many(12)[::-1], teacher__concurrency=1, workdir=tmp_path / "other")
    assert (tmp_path / "other/instructions.jsonl").read_bytes() == side_by_side
    assert side_by_side.count(b"\n") == 12 and 4 < runs.teacher.most <= 8


def test_one_of_equal_requests_is_sent(start):
    """Eight conversations at the same time that begin alike."""

    def slowly(body, _):
        time.sleep(0.05)
        return teachers.say(body)

    runs = start(slowly)
    runs.run([["same", str(i)] for i in range(8)], teacher__concurrency=8)
    assert set(runs.asked().values()) == {1} and len(runs.teacher.calls) == 9


MISBEHAVIOUR = [
    teachers.reset,
    teachers.half,
    teachers.reply(b"<html>busy</html>", kind="text/html"),
    teachers.reply(b'{"output": {"choices": [', 200),
    teachers.reply({"error": "busy"}),
    teachers.reply({"output": {"choices": [{"text": ""}]}}),
    teachers.reply({"output": {"choices": [{"text": 7}]}}),
    teachers.reply({"error": "slow down"}, 429),
    teachers.reply({"error": "slow down"}, 429, retry_after="0.05"),
    teachers.reply(b"", 500),
    teachers.reply(b"", 502),
    teachers.reply(b"", 503),
    teachers.reply(b"", 504),
]


def test_whatever_passes_costs_nothing_but_time(start):
    """Every request meets one misbehaviour first, in turn; and all is answered in the end."""
    turn = iter(MISBEHAVIOUR * 9)
    runs = start(lambda body, count: teachers.say(body) if count else next(turn))
    assert runs.run(many(13)) == 0
    assert set(runs.asked().values()) == {2} and len(runs.finished()) == 13
    reference = start()
    reference.run(many(13), workdir=runs.folder / "calm")
    assert (runs.folder / "calm/instructions.jsonl").read_bytes() == runs.output()


def test_a_retry_after_holds_every_request(start):
    times = []

    def behave(body, _):
        times.append(time.monotonic())
        if len(times) == 1:
            return teachers.reply(b"", 429, retry_after="1")
        return teachers.say(body)

    start(behave).run(many(4), teacher__concurrency=1)
    assert times[1] - times[0] >= 1 and times[-1] - times[1] < 1


@pytest.mark.parametrize(
    ("status", "why"), [(401, "key in TOGETHER"), (404, "model"), (307, "red")]
)
def test_what_will_not_pass_stops_at_once(start, status, why):
    runs = start(lambda *_: teachers.reply({"error": "no"}, status, location="http://x/"))
    with pytest.raises(ValueError, match=why):
        runs.run(many(50))
    assert len(runs.teacher.calls) <= 2  # Of the two that are sent at the same time.


def test_a_key_that_ends_stops_every_connection(start):
    """One of two meets it; the other finishes what is under way, and that is kept."""

    def behave(body, _):
        time.sleep(0.02)
        is_spent = "question 3 " in body["prompt"]
        return teachers.reply({"error": "no money"}, 402) if is_spent else teachers.say(body)

    runs = start(behave)
    with pytest.raises(ValueError, match="no money"):
        runs.run(many(30))
    assert len(runs.teacher.calls) < 14 and len(runs.stored()) == len(runs.teacher.calls) - 1


def test_settings_that_the_host_refuses_stop_soon(start):
    runs = start(lambda *_: teachers.reply({"error": {"message": "no such top_k"}}, 400))
    with pytest.raises(ValueError, match=r"refused the first 3 requests.*no such top_k"):
        runs.run(many(50))
    assert len(runs.teacher.calls) <= 4


def test_one_request_that_the_host_refuses_costs_its_conversation(start, capsys):
    def behave(body, _):
        long = "question 1 " in body["prompt"]
        return teachers.reply({"error": "too long"}, 400) if long else teachers.say(body)

    runs = start(behave)
    assert runs.run(many(6)) == 0
    assert "1 of 6 conversations failed" in (shown := capsys.readouterr().out)
    assert "too long" in shown and len(runs.finished()) == 5
    assert max(runs.asked().values()) == 1


def test_a_network_that_is_off_ends_the_run_and_the_next_continues(start):
    """It goes off in the middle."""
    on = threading.Event()
    on.set()

    def behave(body, _):
        if len(runs.teacher.calls) > 10:
            on.clear()
        return teachers.say(body) if on.is_set() else teachers.reset

    runs = start(behave)
    with pytest.raises(RetryError, match="8 attempts in a row brought no answer"):
        runs.run(many(20), retry__in_a_row=8, retry__attempts=20)
    stored, calls = runs.stored(), len(runs.teacher.calls)
    assert len(stored) >= 9 and calls < 25
    runs.teacher.behave = lambda body, _: teachers.say(body)
    assert runs.run(many(20)) == 0
    again = {request.Request("together", body).key for body in runs.teacher.calls[calls:]}
    assert not again & stored and runs.output().count(b"\n") == 20


def test_a_network_that_is_off_at_the_start(start, monkeypatch):
    runs = start()
    with pytest.raises(RetryError, match=r"4 attempts in a row brought no answer.*ConnectError"):
        runs.run(many(9), teacher__url="http://127.0.0.1:9", retry__in_a_row=4)


def test_a_second_run_in_the_same_workdir_is_refused(start):
    """Refused, not shared: so no answer is paid for twice."""
    held = threading.Event()

    def behave(body, _):
        held.wait(20)
        return teachers.say(body)

    runs = start(behave)
    first = runs.start(many(3))
    try:
        runs.wait(lambda: len(runs.teacher.calls) == 2, first)
        with pytest.raises(ValueError, match=r"work is in use by process \d+"):
            runs.run(many(3))
        with pytest.raises(ValueError, match="is in use"):
            distill.write_dump(str(runs.workdir))
    finally:
        held.set()
        first.join(60)
    assert first.exitcode == 0 and set(runs.asked().values()) == {1}


@pytest.mark.process
def test_killed_at_any_moment_it_asks_nothing_twice_but_what_was_under_way(start):
    """kill -9, six times, of a real process against a real server that counts."""
    chance = random.Random(1)

    def behave(body, _):
        time.sleep(0.02)
        return teachers.say(body)

    runs = start(behave)
    wanted, kills = many(25), 0
    while kills < 6:
        stored, calls = runs.stored(), len(runs.teacher.calls)
        process = runs.start(wanted, teacher__concurrency=4)
        goal = calls + chance.randrange(1, 8)
        runs.wait(lambda goal=goal: len(runs.teacher.calls) >= goal, process)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        kills += 1
        again = {request.Request("together", body).key for body in runs.teacher.calls[calls:]}
        assert not again & stored, "a stored answer was asked for again"
        # An answer under way at the kill may be lost, one for each of the 4 connections.
        assert len(runs.stored()) >= len(set(runs.asked())) - 4
    last = runs.start(wanted, teacher__concurrency=4)
    last.join(60)
    assert last.exitcode == 0, runs.log.read_text()
    assert len(runs.asked()) == 50
    assert sum(runs.asked().values()) <= 50 + 4 * kills
    reference = start()
    reference.run(wanted, workdir=runs.folder / "calm")
    assert (runs.folder / "calm/instructions.jsonl").read_bytes() == runs.output()


WITH_LOGPROBS = {
    "teacher.api": "openai",
    "answer.top_k": 0,
    "answer.top_logprobs": 3,
    "answer.vocab": 100,
}


@pytest.mark.process
def test_log_probabilities_outlive_kills_and_are_not_asked_for_twice(start):
    """kill -9, three times; what the teacher sends is other each time that it is asked."""
    lock, sent = threading.Lock(), {}

    def behave(body, count):
        time.sleep(0.02)
        text = f"{teachers.say(body)} {count}"
        with lock:
            sent[text] = teachers.weights(text, body)["content"]
        return text

    runs, chance = start(behave), random.Random(2)
    wanted = many(15)
    for _ in range(3):
        stored, calls = runs.stored(), len(runs.teacher.calls)
        process = runs.start(wanted, **WITH_LOGPROBS)
        goal = calls + chance.randrange(4, 9)
        runs.wait(lambda goal=goal: len(runs.teacher.calls) >= goal, process)
        process.kill()
        process.join()
        assert len(runs.stored()) >= len(runs.teacher.calls) - calls - 2 + len(stored)
    last = runs.start(wanted, **WITH_LOGPROBS)
    last.join(60)
    assert last.exitcode == 0, runs.log.read_text()
    calls = len(runs.teacher.calls)
    assert len(runs.stored()) == 30 and calls <= 30 + 2 * 3
    check_lines(runs, sent)
    before = (runs.workdir / "logprobs.jsonl").read_bytes()
    assert runs.run(wanted, **WITH_LOGPROBS) == 0
    assert len(runs.teacher.calls) == calls
    for name in ("logprobs.jsonl", "instructions.jsonl"):
        (runs.workdir / name).unlink()
    distill.write_dump(str(runs.workdir))
    assert (runs.workdir / "logprobs.jsonl").read_bytes() == before
    check_lines(runs, sent)


def check_lines(runs, sent):
    """Every line has the ids that were sent with the very answers of its text."""
    texts = [json.loads(line)["text"] for line in runs.output().splitlines()]
    told = (runs.workdir / "logprobs.jsonl").read_text().splitlines()
    assert len(texts) == len(told) == 15
    for text, line in zip(texts, told, strict=True):
        answers = [part.split("    [INST]")[0] for part in text.split("[/INST]  ")[1:]]
        ids = [found["ids"] for found in json.loads(line)["answers"]]
        tokens = [[entry["token"] for entry in sent[answer]] for answer in answers]
        assert tokens == [[f"token_id:{i}" for i in those] for those in ids]


def test_answers_without_log_probabilities_are_asked_again_for_them(start, capsys):
    """And the other way round: both stay."""
    runs = start()
    plain = WITH_LOGPROBS | {"answer.top_logprobs": 0, "answer.vocab": 0}
    assert runs.run([["a"]], **plain) == 0
    assert not (runs.workdir / "logprobs.jsonl").exists()
    assert runs.run([["a"]], **WITH_LOGPROBS) == 0 and len(runs.teacher.calls) == 2
    assert "2 conversations; 1 with logprobs.jsonl" in capsys.readouterr().out
    told = (runs.workdir / "logprobs.jsonl").read_text().splitlines()
    assert sorted(len(json.loads(line)["answers"]) for line in told) == [0, 1]
    assert runs.run([["a"]], **plain) == 0 and len(runs.teacher.calls) == 2


def test_the_scripts_answers_have_no_log_probabilities(start):
    """They are asked for, though the workdir holds them."""
    runs = start()
    path = runs.folder / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE results (key TEXT, turns TEXT, results TEXT)")
        row = old_database.key(["c1"]), repr(["c1"]), prompts.join(["c1"], ["x"])
        database.execute("INSERT INTO results VALUES (?, ?, ?)", row)
        database.commit()
    assert runs.run([["c1"]], old_database=path) == 0 and not runs.teacher.calls
    assert runs.run([["c1"]], **WITH_LOGPROBS) == 0 and len(runs.teacher.calls) == 1


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_keeps_what_is_under_way_and_sends_nothing_more(start, number, code):
    def behave(body, _):
        time.sleep(0.3)
        return teachers.say(body)

    runs = start(behave)
    process = runs.start(many(30))
    runs.wait(lambda: len(runs.teacher.calls) >= 4, process)
    os.kill(process.pid, number)
    process.join(60)
    calls = len(runs.teacher.calls)
    assert process.exitcode == code and 4 <= calls <= 6
    assert len(runs.stored()) == calls  # All that was sent was kept.
    told = runs.log.read_text()
    assert "stopping: 2 requests are under way" in told and "The same command continues." in told
    assert "Traceback" not in told


@pytest.mark.process
def test_a_second_signal_leaves_at_once(start):
    runs = start(lambda *_: teachers.silent)
    process = runs.start(many(30))
    runs.wait(lambda: len(runs.teacher.calls) >= 2, process)
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    runs.wait(lambda: "under way" in runs.log.read_text(), process)
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    process.kill()
    assert process.exitcode == 130 and time.monotonic() - begun < 5
    assert "Traceback" not in runs.log.read_text()


@pytest.mark.process
def test_a_full_disk_is_a_sentence_and_costs_what_was_under_way(start):
    runs = start(lambda body, _: "long " * 2000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"answers.sqlite: .*Everything answered before is saved"):
            runs.run(many(60))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    stored, calls = runs.stored(), len(runs.teacher.calls)
    assert calls - 3 <= len(stored) <= calls < 60  # As many where a whole conversation had no room.
    assert runs.run(many(60)) == 0
    again = {request.Request("together", body).key for body in runs.teacher.calls[calls:]}
    assert not again & stored and runs.output().count(b"\n") == 60


def test_the_key_is_in_no_file(start, capfd):
    runs = start(lambda body, count: teachers.say(body) if count else f"use {teachers.KEY}")
    runs.run(THREE)
    for path in runs.folder.rglob("*"):
        assert path.is_dir() or teachers.KEY.encode() not in path.read_bytes(), path
    assert teachers.KEY not in "".join(capfd.readouterr())


def test_a_damaged_file_is_told_and_what_is_left_is_not_asked_again(start, capfd):
    runs = start()
    runs.run(THREE)
    path = runs.workdir / "answers.sqlite"
    lost = teachers.say({"prompt": "  [INST]  c1  [/INST]  "}).encode()
    data = path.read_bytes()
    path.write_bytes(data.replace(lost, b"X" + lost[1:]))  # In answers and in results.
    calls = len(runs.teacher.calls)
    assert runs.run(THREE) == 0
    assert "is damaged" in capfd.readouterr().err
    assert len(runs.teacher.calls) == calls + 1 and runs.output().count(b"\n") == 3


def test_an_old_database_is_not_asked_again_and_is_dumped(start):
    runs = start()
    path = runs.folder / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE results (key TEXT, turns TEXT, results TEXT)")
        for turns, answers in ((["a1", "a2"], ["x", "y"]), (["other"], ["z"])):
            row = (old_database.key(turns), repr(turns), prompts.join(turns, answers))
            database.execute("INSERT INTO results VALUES (?, ?, ?)", row)
        # The script's key takes this one for ["b1", "b2"], which is asked nevertheless.
        same = old_database.key(["b1", "b2"]), repr(["b1 b2"]), prompts.join(["b1 b2"], ["w"])
        database.execute("INSERT INTO results VALUES (?, ?, ?)", same)
        database.execute("INSERT INTO results VALUES ('0', '[]', '')")
        database.commit()
    assert runs.run(THREE, old_database=path) == 0
    assert sorted(Counter(body["prompt"][10:12] for body in runs.teacher.calls).items()) == [
        ("b1", 2),
        ("c1", 1),
    ]
    lines = {json.loads(line)["text"] for line in runs.output().splitlines()}
    assert "[INST]  a1  [/INST]  x    [INST]  a2  [/INST]  y" in lines
    assert len(lines) == 5 and "[INST]  other  [/INST]  z" in lines
    distill.write_dump(str(path))
    assert len((runs.folder / "old.db.jsonl").read_text().splitlines()) == 3


def test_a_dump_by_itself_asks_nothing(start, capsys):
    runs = start()
    runs.run(THREE)
    before, calls = runs.output(), len(runs.teacher.calls)
    (runs.workdir / "instructions.jsonl").unlink()
    distill.write_dump(str(runs.workdir))
    assert runs.output() == before and len(runs.teacher.calls) == calls
    assert "3 conversations" in capsys.readouterr().out
    for nothing in (runs.folder, runs.folder / "none", runs.workdir / "config.json"):
        with pytest.raises(ValueError, match="neither a workdir"):
            distill.write_dump(str(nothing))


@pytest.mark.process
def test_the_command_dumps_the_workdir_of_a_recipe_or_one_that_is_named(start):
    runs = start()
    runs.run(THREE)
    before, calls = runs.output(), len(runs.teacher.calls)
    for words in (["--dump", f"--config={RECIPE}", *runs.flags(THREE)], [f"--dump={runs.workdir}"]):
        (runs.workdir / "instructions.jsonl").unlink()
        process = SERVER.Process(target=_distill, args=(["distill", *words], runs.log, {}))
        process.start()
        process.join(60)
        assert process.exitcode == 0, runs.log.read_text()
        assert runs.output() == before
    assert len(runs.teacher.calls) == calls


def test_tokens_and_cost_are_those_of_the_whole_workdir(start, capsys):
    runs = start()
    prices = {"teacher__price_in": 1000.0, "teacher__price_out": 2000.0}
    runs.run(THREE, **prices)
    assert "asked 5 kept 0 tokens 500 in 50 out cost 0.60" in capsys.readouterr().out
    runs.run([*THREE, ["d"]], **prices)
    assert "asked 1 kept 0 tokens 600 in 60 out cost 0.72" in capsys.readouterr().out
    runs.teacher.behave = lambda *_: teachers.reply({"output": {"choices": [{"text": "x"}]}})
    runs.run([["e"]], **prices)
    assert "tokens at least 600 in 60 out cost at least 0.72" in capsys.readouterr().out


@pytest.mark.process
def test_the_command_says_what_is_missing(start, monkeypatch):
    runs = start()
    monkeypatch.setenv("TOGETHER_API_KEY", "")
    process = runs.start(THREE)
    process.join(60)
    assert process.exitcode == errors.EXIT_CONFIG
    assert "has no TOGETHER_API_KEY. Type: export" in runs.log.read_text()
    monkeypatch.setenv("TOGETHER_API_KEY", teachers.KEY)
    done = runs.start([*THREE, []])
    done.join(60)
    assert done.exitcode == 0 and "left out: 1 no question" in runs.log.read_text()


def test_nothing_to_ask_is_said(start):
    with pytest.raises(DataError, match="holds no instruction"):
        start().run([])


def test_the_settings_are_written_beside_the_answers(start):
    runs = start()
    runs.run(THREE)
    written = json.loads((runs.workdir / "config.json").read_text())
    assert written["settings"]["answer"]["stop"] == ["[INST]"]
    assert AnswerConfig().stop == ("[INST]",) and "commit" in written
