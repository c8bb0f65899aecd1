import io
import math
import re

import pytest
import rich.console

from llama_jax.telemetry import console
from llama_jax.telemetry.console import Console

VALUES = {
    "train/loss": 3.412,
    "train/perplexity": 30.33,
    "train/learning_rate": 3e-4,
    "train/grad_norm": 0.814,
    "throughput/tokens_per_second": 12_345.0,
    "throughput/step_time_s": 1.234,
    "throughput/tflops_per_device_full": 1.0,
}
ETA = 2 * 3600 + 10 * 60 + 33


def plain(width=80):
    return rich.console.Console(file=io.StringIO(), width=width)


def terminal(**options):
    options = {"_environ": {"TERM": "xterm"}} | options
    return rich.console.Console(file=io.StringIO(), width=80, force_terminal=True, **options)


def test_without_a_terminal_a_step_is_one_plain_line():
    output = plain()
    with Console(1000, console=output) as shown:
        shown.advance(119)
        shown.log(120, VALUES, ETA)
    assert output.file.getvalue() == (
        "step 120/1000 loss 3.412 ppl 30.3 lr 3.0e-04 gnorm 0.81 tok/s 12.3k step 1.23s "
        "eta 2:10:33\n"
    )


def test_mfu_is_shown_when_it_is_known():
    output = plain()
    Console(10, console=output).log(1, VALUES | {"throughput/mfu_causal": 0.412}, math.nan)
    assert " mfu 41.2% step 1.23s eta ?\n" in output.file.getvalue()


def test_the_bar_fits_one_line_of_80_columns_with_nothing_cut_off():
    output = terminal(no_color=True)
    wide = {"train/loss": 12.345, "throughput/tokens_per_second": 123e6}
    with Console(100_000, console=output) as shown:
        shown.log(99_999, wide | {"throughput/mfu_causal": 0.412}, 100 * 3600)
    frames = output.file.getvalue().replace("\r", "\n").split("\n")
    lines = [line for line in frames if "99999" in line]
    assert lines
    for line in lines:
        assert "step 99999/100000" in line
        assert "loss 12.345 123M tok/s mfu 41.2% eta 100:00:00" in line
        text = rich.text.Text.from_ansi(line.replace("\x1b[2K", "")).plain
        assert len(text) <= 80


def test_a_continued_run_starts_its_bar_where_it_stopped():
    output = terminal()
    with Console(1000, start=400, console=output):
        pass
    assert "step 400/1000" in rich.text.Text.from_ansi(output.file.getvalue()).plain


def test_messages_stand_above_the_bar_as_they_are():
    output = terminal(no_color=True)
    with Console(10, console=output) as shown:
        shown.message("saved [bold] :smile:")
        shown.log(5, VALUES, 1)
    text = output.file.getvalue()
    assert "saved [bold] :smile:\n" in text
    assert text.index("saved [bold]") < text.index("step 5/10")


def test_long_messages_are_not_broken_into_lines():
    output = plain(width=20)
    Console(10, console=output).message("word " * 20)
    assert output.file.getvalue().count("\n") == 1


def test_no_color_in_the_environment_means_no_color():
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        output = terminal(color_system="standard", _environ={"TERM": "xterm", **environment})
        with Console(10, console=output) as shown:
            shown.log(5, VALUES, 1)
        assert bool(re.search(r"\x1b\[[39]\d", output.file.getvalue())) == coloured


def test_only_the_first_process_speaks():
    for output in (plain(), terminal()):
        with Console(10, console=output, enabled=False) as shown:
            shown.advance(1)
            shown.log(1, VALUES, 1)
            shown.message("hello")
        assert output.file.getvalue() == ""


def test_everything_goes_to_stderr(capsys):
    with Console(10) as shown:
        shown.log(1, VALUES, 1)
        shown.message("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("step 1/10 loss 3.412")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (987.4, "987"), (999.4, "999"), (1000, "1k"), (12_345, "12.3k"), (4.56e6, "4.56M")],
)
def test_counts_have_three_digits(value, text):
    assert console.short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7833, "2:10:33"), (59.6, "0:01:00"), (0, "0:00:00"), (math.nan, "?")],
)
def test_times_are_hours_minutes_seconds(seconds, text):
    assert console.clock(seconds) == text
