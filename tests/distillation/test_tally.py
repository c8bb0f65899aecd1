"""What is counted is shown: as a bar to a person, as lines to a file."""

import io

import pytest
import rich.console

from llama_jax.config.distill import TeacherConfig
from llama_jax.distillation import tally as module
from llama_jax.distillation.answer import Answer
from llama_jax.distillation.tally import Tally

TEACHER = TeacherConfig(model="m", price_in=10.0, price_out=100.0)


def test_words_are_the_counts():
    tally = Tally(TEACHER, 5, (1_000_000, 0, 0))
    tally.count(Answer("yes", 200_000, 50_000, is_cut=True))
    tally.kept, tally.failed, tally.retries = 2, 1, 3
    assert tally.words() == ("asked 1 kept 2 failed 1 retries 3 tokens 1.2M in 50k out cost 17.00")
    assert tally.cut == 1


def test_what_was_not_told_is_not_guessed():
    tally = Tally(TEACHER, 5, (0, 0, 0))
    tally.count(Answer("yes", -1, 1000))
    assert tally.spent() == "tokens at least 0 in 1k out cost at least 0.10"


def test_without_prices_there_is_no_cost():
    assert Tally(TeacherConfig(model="m"), 5, (10, 20, 0)).words() == (
        "asked 0 kept 0 tokens 10 in 20 out"
    )


@pytest.fixture
def screen(monkeypatch):
    text = io.StringIO()
    console = rich.console.Console(file=text, force_terminal=True, width=100)
    monkeypatch.setattr(module.rich.console, "Console", lambda **_: console)
    monkeypatch.setenv("TERM", "xterm")
    return text


def test_a_terminal_shows_a_bar(screen):
    tally = Tally(TEACHER, 5, (0, 0, 0))
    with tally.shown():
        tally.done, tally.failed = 2, 1
        tally.show()
    assert "distill 3/5" in screen.getvalue() and "cost 0.00" in screen.getvalue()


def test_a_file_gets_a_line_from_time_to_time(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    tally = Tally(TEACHER, 5, (0, 0, 0))
    with tally.shown():
        for second in range(100):
            now[0], tally.done = float(second), second
            tally.show()
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == [
        "30/5",
        "60/5",
        "90/5",
    ]
