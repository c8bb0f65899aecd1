import io
import sys
import types

import pytest

from llama_jax import generate
from llama_jax.core import errors

STORY = "Once upon a time, there was a little girl named Lily."


@pytest.fixture(scope="module")
def flags(shared):
    folder = shared / "weights/stories260K"
    return [f"--checkpoint={folder / 'hf'}", f"--tokenizer={folder / 'tok512.model'}"]


def exit_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: generate.main(arguments))
    return stop.value.code, capsys.readouterr()


def test_the_continuation_alone_goes_to_stdout(flags, capsys):
    arguments = [*flags, "--prompt=Once upon", "--stop= She", "--max-length=200"]
    code, printed = exit_of(arguments, capsys)
    assert code == 0
    assert printed.out == STORY.removeprefix("Once upon") + "\n"
    assert printed.err == ""  # Not a terminal.


def test_a_dash_reads_the_prompt_from_stdin(flags, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"Once upon a")))
    code, printed = exit_of([*flags, "--prompt=-", "--max-new-tokens=2"], capsys)
    assert (code, printed.out) == (0, " time,\n")


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--temperature=-1"], errors.EXIT_CONFIG, "error: temperature is -1.0; it must be"),
        (["--top-k=3"], errors.EXIT_CONFIG, "error: top_k is 3 but temperature is 0"),
        (["--checkpoint=/nowhere"], errors.EXIT_CONFIG, "error: /nowhere holds no config.json"),
        (["--prompt=" + "a b " * 400], errors.EXIT_CONFIG, "error: the prompt has"),
        (["--temprature=1"], 2, "unrecognized arguments: --temprature=1"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(flags, capsys, more, code, sentence):
    found, printed = exit_of([*flags, "--prompt=x", *more], capsys)
    assert found == code
    assert sentence in printed.err
    assert printed.out == ""


def test_bytes_that_are_not_text_are_damaged_data(flags, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"caf\xe9 x")))
    code, printed = exit_of([*flags, "--prompt=-"], capsys)
    assert code == errors.EXIT_BAD_DATA
    assert "stdin is not UTF-8: byte 3" in printed.err


def test_every_flag_of_generation_is_a_setting():
    flags = vars(generate.parser().parse_args(["--checkpoint=x", "--prompt=y"]))
    assert vars(generate.DEFAULT) == {
        name: tuple(flags[name]) if name == "stop" else flags[name]
        for name in vars(generate.DEFAULT)
    }
