import io

import pytest
import rich.console

from llama_jax.telemetry import progress


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 80 columns whose output can be read."""
    text = io.StringIO()
    console = rich.console.Console(file=text, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    return text


def test_items_pass_through_and_are_counted(screen):
    assert list(progress.counted("abc", "Reading")) == ["a", "b", "c"]
    assert "Reading" in screen.getvalue() and "3/3" in screen.getvalue()


def test_bytes_are_shown_in_their_unit(screen):
    with progress.bar("Tokenising", 2_000_000, "bytes") as show:
        show(1_000_000)
    assert "1.0/2.0 MB" in screen.getvalue()


def test_away_from_a_terminal_nothing_is_printed(capfd):
    list(progress.counted("abc", "Reading"))
    assert capfd.readouterr() == ("", "")
