"""A setting of a source that would have no effect is refused."""

import pytest

from llama_jax.config import command
from llama_jax.config.data import SourceConfig


@pytest.mark.parametrize(
    ("name", "value", "format_"),
    [("field", "body", "text"), ("field", "body", "prepared"), ("exclude", ("a",), "prepared")],
)
def test_a_setting_that_a_format_ignores_is_an_error(name, value, format_):
    with pytest.raises(ValueError, match=f"{name} is .* but format is '{format_}', so it has no"):
        SourceConfig(path="x", format=format_, **{name: value})
    assert getattr(SourceConfig(path="x", **{name: value}), name) == value


def test_words_that_are_no_flags_are_refused():
    command.refuse_positionals(["train.py"])
    with pytest.raises(ValueError, match=r"'lr=5' is not a flag.*Did you mean --config\.lr=5\?"):
        command.refuse_positionals(["train.py", "lr=5"])
    with pytest.raises(ValueError, match=r"'run' is not a flag, so it has no effect\. Settings"):
        command.refuse_positionals(["train.py", "run"])
