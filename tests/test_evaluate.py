"""python -m llama_jax.evaluate: from checkpoints to a table, numbers and a picture."""

import dataclasses
import json
import math
import random
from functools import partial
from pathlib import Path

import jax
import pytest

from llama_jax.config import load
from llama_jax.config.data import SourceConfig
from llama_jax.config.evaluate import EvaluateConfig, EvaluatorConfig, SubjectConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.converters import run_directory
from llama_jax.core import tree
from llama_jax.core.errors import DataError
from llama_jax.evaluate import evaluate
from llama_jax.model import llama
from llama_jax.text.training import train_tokenizer

TEXT = Path(random.__file__).read_text()
MODEL = ModelConfig(
    layers=2, embed=64, mlp=96, heads=4, kv_heads=2, head_dim=16, vocab=400, context=32,
    init_std=0.3,
)  # fmt: skip
COMPUTE = ComputeConfig(dtype="float32", attention_chunk=32)
LINEAR = RopeConfig(scaling="linear", factor=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds held_out.txt and a run directory `run`."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "held_out.txt").write_text(TEXT[:8000])
    params = jax.jit(partial(llama.create, MODEL, COMPUTE, 0))()
    (folder / "run").mkdir()
    run_directory.write(folder / "run", MODEL, tree.named_leaves(params).__getitem__)
    (folder / "run/tokenizer").mkdir()
    tokenizer = train_tokenizer([TEXT], TokenizerTrainingConfig(vocab=380))
    (folder / "run/tokenizer/tokenizer.model").write_bytes(tokenizer)
    return folder


def settings(folder, workdir, **changes):
    rows = EvaluatorConfig(
        source=SourceConfig(path=str(folder / "held_out.txt")),
        sequence_length=64,
        rows=12,
        buckets=4,
    )
    run = SubjectConfig(checkpoint=str(folder / "run"), context=64)
    config = EvaluateConfig(
        workdir=str(workdir),
        subjects={"before": run, "interpolated": dataclasses.replace(run, rope=LINEAR)},
        evaluators={"held_out": rows},
        compute=COMPUTE,
    )
    return dataclasses.replace(config, **changes)


def test_results_are_printed_written_and_drawn(folder, tmp_path, capsys):
    config = settings(folder, tmp_path / "results")
    found = evaluate(config)["held_out"]

    assert found["before"].tokens == found["interpolated"].tokens == 12 * 64
    # The first position is not turned, and the first 32 are the model's own without scaling.
    assert found["before"].loss != found["interpolated"].loss

    written = json.loads((tmp_path / "results/results.json").read_text())
    assert load.from_dict(EvaluateConfig, written["settings"]) == config
    assert {"commit", "versions", "date"} <= set(written)
    assert written["subjects"]["interpolated"]["trained_context"] == 32
    assert written["subjects"]["interpolated"]["model"]["rope"]["factor"] == 2.0
    for name, result in found.items():
        numbers = written["results"]["held_out"][name]
        assert (numbers["loss"], numbers["tokens"]) == (result.loss, result.tokens)
        assert [b["from"] for b in numbers["by_position"]] == [0, 16, 32, 48]
        assert [b["loss"] for b in numbers["by_position"]] == [b.loss for b in result.buckets]
        assert numbers["perplexity"] == math.exp(result.loss)

    picture = (tmp_path / "results/perplexity_by_position.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines()[:-2])) <= 80  # The last two name the files.
    for word in ("before", "interpolated", "held_out: 768 tokens in rows of 64", "results.json"):
        assert word in shown.out
    assert shown.err == ""  # No bar where nobody looks.


def test_a_subject_is_measured_as_it_was_trained_unless_told_otherwise(folder, tmp_path):
    rows = settings(folder, tmp_path).evaluators["held_out"]
    rows = dataclasses.replace(rows, sequence_length=32, rows=8)
    run = SubjectConfig(checkpoint=str(folder / "run"))
    same = dataclasses.replace(run, context=32)
    config = settings(
        folder,
        tmp_path,
        subjects={"its own": run, "told the same": same},
        evaluators={"a": rows, "b": dataclasses.replace(rows, rows=-1)},
    )
    found = evaluate(config)
    assert found["a"]["its own"] == found["a"]["told the same"]
    assert found["b"]["its own"].tokens > found["a"]["its own"].tokens
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "perplexity_by_position_a.png",
        "perplexity_by_position_b.png",
    ]


def test_a_row_longer_than_the_model_reads_needs_a_word(folder, tmp_path):
    config = settings(folder, tmp_path, subjects={"s": SubjectConfig(checkpoint=f"{folder}/run")})
    with pytest.raises(
        ValueError, match=r"^config\.evaluators\.held_out\.sequence_length is 64 "
    ) as e:
        evaluate(config)
    assert "config.subjects.s.context=64" in str(e.value)


def test_another_base_frequency_is_not_slipped_in(folder, tmp_path):
    subject = SubjectConfig(
        checkpoint=f"{folder}/run", context=64, rope=RopeConfig(theta=500_000.0)
    )
    with pytest.raises(ValueError, match=r"^config\.subjects\.s\.rope\.theta is 500000\.0 but "):
        evaluate(settings(folder, tmp_path, subjects={"s": subject}))


def test_a_checkpoint_or_step_that_is_not_there(folder, tmp_path):
    nowhere = SubjectConfig(checkpoint=f"{folder}/nowhere", context=64)
    with pytest.raises(ValueError, match="nowhere holds no"):
        evaluate(settings(folder, tmp_path, subjects={"s": nowhere}))
    step = SubjectConfig(checkpoint=f"{folder}/run", context=64, step=7)
    with pytest.raises(ValueError, match="no checkpoint of step 7; it holds 0"):
        evaluate(settings(folder, tmp_path, subjects={"s": step}))


def test_tokenizers_that_do_not_fit(folder, tmp_path):
    config = settings(folder, tmp_path)
    large = tmp_path / "tokenizer.model"
    large.write_bytes(train_tokenizer([TEXT], TokenizerTrainingConfig(vocab=420)))
    with pytest.raises(ValueError, match="has 420 pieces but subject 'before' knows 400"):
        evaluate(dataclasses.replace(config, tokenizer=str(large)))

    other = tmp_path / "other"
    other.mkdir()
    for part in ("config.json", "checkpoints"):
        (other / part).symlink_to(folder / "run" / part)
    elsewhere = SubjectConfig(checkpoint=str(other), context=64)
    with pytest.raises(ValueError, match=r"^subject 's' brings no tokenizer"):
        evaluate(settings(folder, tmp_path, subjects={"s": elsewhere}))
    (other / "tokenizer").mkdir()
    tokenizer = train_tokenizer([TEXT[:9000]], TokenizerTrainingConfig(vocab=390))
    (other / "tokenizer/tokenizer.model").write_bytes(tokenizer)
    subjects = config.subjects | {"z": elsewhere}
    with pytest.raises(ValueError, match=r"^subjects 'before' and 'z' have different tokenizers"):
        evaluate(settings(folder, tmp_path, subjects=subjects))


def test_a_damaged_text_leaves_no_results(folder, tmp_path):
    config = settings(folder, tmp_path / "results")
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"\xff\xfe broken")
    rows = dataclasses.replace(config.evaluators["held_out"], source=SourceConfig(path=str(broken)))
    with pytest.raises(DataError, match="broken"):
        evaluate(dataclasses.replace(config, evaluators={"held_out": rows}))
    assert not list((tmp_path / "results").glob("*.*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subjects": {}}, "subjects and evaluators must each name at least one"),
        ({"evaluators": {"a/b": EvaluatorConfig()}}, "evaluators holds the name 'a/b'"),
    ],
)
def test_settings_that_cannot_be(folder, tmp_path, change, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        settings(folder, tmp_path, **change)
