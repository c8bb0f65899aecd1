import subprocess
import sys

import pytest

PROGRAM = """
from llama_jax.core import errors
import json, numpy
def command():
    {body}
errors.run(command)
"""


def run(body: str):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 0", 0),
        ("return 75", 75),
        ("raise errors.DataError('x')", 65),
        ("raise ValueError('x')", 70),  # Not raised inside the package: a bug, not a sentence.
        ("open('/nowhere/at/all')", 74),
        ("raise KeyboardInterrupt", 130),
        ("return 1 / 0", 70),
        ("from llama_jax.core import files; files.read_json('/dev/null')", 65),
        ("from llama_jax.config.rope import RopeConfig; RopeConfig(factor=0.5)", 78),
    ],
)
def test_exit_codes(body, code):
    assert run(body)[0] == code


def test_our_own_errors_are_one_line_and_bugs_show_where():
    code, text = run("from llama_jax.config.rope import RopeConfig; RopeConfig(factor=0.5)")
    assert text.startswith("error: factor is 0.5") and text.count("\n") == 1
    code, text = run("return numpy.zeros(3).reshape(2, 2)")
    assert code == 70 and "Traceback" in text
