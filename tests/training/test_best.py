"""The best evaluation is found again from what was written, and enough waiting is enough."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jax.config.evaluate import EvaluatorConfig
from llama_jax.config.train import EvaluationConfig
from llama_jax.core.errors import DataError
from llama_jax.distributed.processes import Alone
from llama_jax.training.best import Best

CONFIG = EvaluationConfig(every=1, evaluators={"a": EvaluatorConfig()}, best="a", patience=2)


def test_the_first_of_the_lowest_is_the_best_and_patience_counts_from_it():
    best, seen = Best(CONFIG), []
    for step, loss in enumerate([3.0, 2.0, 2.0, 1.0, math.nan, 1.5], start=1):
        best = best.after(step, {"a": loss, "b": 0.0})
        seen.append((best.step, best.waited, best.is_enough))
    assert seen == [
        (1, 0, False),
        (2, 0, False),
        (2, 1, False),
        (4, 0, False),
        (4, 1, False),
        (4, 2, True),
    ]
    assert "2 evaluations in a row found no lower loss of a than 1.0000 at step 4" in best.told()


def test_without_a_name_nothing_is_the_best(tmp_path):
    best = Best.until(9, EvaluationConfig(), tmp_path / "none", Alone()).after(10, {"a": 1.0})
    assert best.step == 0 and not best.is_enough


@settings(database=None, deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.floats(0, 9)), max_size=8), st.integers(0, 9))
def test_a_run_that_continues_knows_what_it_knew(tmp_path_factory, losses, step):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    rows = [{"step": i, "eval/a/loss": loss} for i, loss in enumerate(losses, start=1)]
    noise = [{"step": i, "train/loss": 0.1} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*noise, *rows]) + '{"eval/a/loss"')
    best = Best(CONFIG)
    for i, loss in enumerate(losses[:step], start=1):
        best = best.after(i, {"a": math.inf if loss is None else loss})
    assert Best.until(step, CONFIG, path, Alone()) == best


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "m").write_text('{"eval/a/loss": 1}\n')
    with pytest.raises(DataError, match="m, line 1 is not a JSON object with a step"):
        Best.until(1, CONFIG, tmp_path / "m", Alone())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"best": "b"}, "best is 'b'; it must be one of the evaluators: 'a'"),
        ({"patience": 2}, "patience is 2 but best is '', so it has no effect"),
        ({"best": "a", "patience": -1}, "patience is -1; it must be 0 or more"),
    ],
)
def test_settings_without_effect_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        EvaluationConfig(every=1, evaluators={"a": EvaluatorConfig()}, **values)
