"""Measures checkpoints: python -m llama_jax.evaluate --config=configs/X.py

Every subject reads every evaluator's rows. Prints one table per evaluator and writes, in workdir:

    results.json                  all numbers, and the settings, commit and versions they came from
    perplexity_by_position.png    one line per subject; with several evaluators one picture each,
                                  perplexity_by_position_<evaluator>.png
"""

import dataclasses
import datetime
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from llama_jax.config import command, load
from llama_jax.config.evaluate import EvaluateConfig, SubjectConfig
from llama_jax.config.model import ModelConfig
from llama_jax.converters import weights
from llama_jax.converters.weights import Weights
from llama_jax.core import errors, files
from llama_jax.core.provenance import provenance
from llama_jax.evaluation import picture
from llama_jax.evaluation.perplexity import Evaluator, Result, make_evaluators
from llama_jax.evaluation.table import table
from llama_jax.model import llama
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.telemetry import progress
from llama_jax.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Subject:
    """A checkpoint, and the model as which its parameters are measured."""

    weights: Weights
    model: ModelConfig


def main(config: EvaluateConfig) -> None:
    """Evaluates with the settings of the command line."""
    evaluate(config)


def evaluate(config: EvaluateConfig) -> dict[str, dict[str, Result]]:
    """Returns results by evaluator and subject, after printing, drawing and writing them.

    Raises:
        ValueError: A setting does not fit a checkpoint, a tokenizer or the data.
        DataError: A checkpoint or the data is damaged.
    """
    # Every subject is looked at before the first is measured: a mistake shows at once.
    subjects = {name: _find(name, subject) for name, subject in config.subjects.items()}
    _check_lengths(config, subjects)
    tokenizer = _tokenizer(config, subjects)
    workdir = Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)

    results: dict[str, dict[str, Result]] = {name: {} for name in config.evaluators}
    for name, subject in subjects.items():
        for evaluator, result in _measure(config, name, subject, tokenizer):
            results[evaluator][name] = result

    if jax.process_index() == 0:
        _report(config, workdir, subjects, results)
    return results


def _find(name: str, config: SubjectConfig) -> Subject:
    step = None if config.step == -1 else config.step
    found = weights.find(config.checkpoint, step, config.adapter)
    if not config.context:
        return Subject(found, found.model)
    path = f"config.subjects.{name}"
    if config.rope.theta != found.model.rope.theta:
        raise ValueError(
            f"{path}.rope.theta is {config.rope.theta} but {config.checkpoint} was trained with "
            f"{found.model.rope.theta}. Set {path}.rope.theta to that; to measure a larger base "
            "set rope.scaling to 'ntk'."
        )
    model = dataclasses.replace(found.model, context=config.context, rope=config.rope)
    return Subject(found, model)


def _check_lengths(config: EvaluateConfig, subjects: dict[str, Subject]) -> None:
    for name, evaluator in config.evaluators.items():
        for subject in subjects:
            context, length = subjects[subject].model.context, evaluator.sequence_length
            if length > context:
                raise ValueError(
                    f"config.evaluators.{name}.sequence_length is {length} but subject "
                    f"{subject!r} reads at most {context} tokens. To measure it beyond, say how: "
                    f"set config.subjects.{subject}.context={length} and its rope; with rope "
                    "left alone its positions run on without scaling."
                )


def _tokenizer(config: EvaluateConfig, subjects: dict[str, Subject]) -> Tokenizer:
    """Returns the one tokenizer of all subjects."""
    first = next(iter(subjects))
    path = config.tokenizer or subjects[first].weights.tokenizer
    if path is None:
        raise ValueError(
            f"subject {first!r} brings no tokenizer. Set --config.tokenizer=... to the one that "
            "it was trained with."
        )
    tokenizer = load_tokenizer(path)
    for name, subject in subjects.items():
        if tokenizer.vocab_size > subject.model.vocab:
            raise ValueError(
                f"the tokenizer {path} has {tokenizer.vocab_size} pieces but subject {name!r} "
                f"knows {subject.model.vocab}. Set --config.tokenizer=... to the one that it was "
                "trained with."
            )
        own = subject.weights.tokenizer
        if not config.tokenizer and own and load_tokenizer(own).sha256 != tokenizer.sha256:
            raise ValueError(
                f"subjects {first!r} and {name!r} have different tokenizers ({path} and {own}); "
                "perplexities over different tokens do not compare. Evaluate them one by one, or "
                "set --config.tokenizer=... if both files mean the same."
            )
    return tokenizer


def _measure(
    config: EvaluateConfig, name: str, subject: Subject, tokenizer: Tokenizer
) -> Iterator[tuple[str, Result]]:
    """Yields (evaluator, result) of one subject; its parameters are freed afterwards."""
    layout = Layout(make_mesh(config.mesh), config.sharding)
    evaluators = make_evaluators(
        config.evaluators,
        subject.model,
        config.compute,
        config.text,
        tokenizer,
        Path(config.workdir) / "cache",
        layout,
    )
    _, shapes = llama.abstract(subject.model, config.compute)
    placed = place.shardings(layout, shapes)
    params = subject.weights.read(config.compute.param_dtype, placed)
    for evaluator in evaluators:
        yield evaluator.name, _run(evaluator, name, params)


def _run(evaluator: Evaluator, name: str, params: llama.Params) -> Result:
    """Returns the result; a person at a terminal sees a bar."""
    title = f"{name} on {evaluator.name}"
    with progress.bar(title, evaluator.count) as show, jax.transfer_guard("disallow"):
        return evaluator.run(params, show)


def _report(
    config: EvaluateConfig,
    workdir: Path,
    subjects: dict[str, Subject],
    results: dict[str, dict[str, Result]],
) -> None:
    console = Console()
    files.write_json(workdir / "results.json", _record(config, subjects, results))
    written = [workdir / "results.json"]
    for name, by_subject in results.items():
        title = _title(config, name, by_subject)
        console.print(table(title, by_subject))
        suffix = f"_{name}" if len(results) > 1 else ""
        path = workdir / f"perplexity_by_position{suffix}.png"
        picture.write(path, title, by_subject, _trained(subjects))
        written.append(path)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _title(config: EvaluateConfig, name: str, by_subject: dict[str, Result]) -> str:
    """Returns what was read: 'held_out: 131,072 tokens in rows of 2,048'."""
    tokens = next(iter(by_subject.values())).tokens
    return f"{name}: {tokens:,.0f} tokens in rows of {config.evaluators[name].sequence_length:,}"


def _trained(subjects: dict[str, Subject]) -> dict[int, str]:
    """Returns the contexts of the checkpoints as they are stored, whatever they are measured at."""
    return {
        subject.weights.model.context: f"trained context {subject.weights.model.context:,}"
        for subject in subjects.values()
    }


def _record(
    config: EvaluateConfig, subjects: dict[str, Subject], results: dict[str, dict[str, Result]]
) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance(),
        "device": jax.devices()[0].device_kind,
        "settings": load.as_dict(config),
        "subjects": {
            name: {
                "checkpoint": str(subject.weights.path),
                "step": subject.weights.step,
                "trained_context": subject.weights.model.context,
                "model": load.as_dict(subject.model),
            }
            for name, subject in subjects.items()
        },
        "results": {
            evaluator: {name: _numbers(result) for name, result in by_subject.items()}
            for evaluator, by_subject in results.items()
        },
    }


def _numbers(result: Result) -> dict[str, Any]:
    """Returns a result as JSON can hold it: null for what is not finite."""
    return {
        **_mean(result.loss, result.perplexity, result.tokens),
        "by_position": [
            {"from": b.start, "to": b.stop, **_mean(b.loss, b.perplexity, b.tokens)}
            for b in result.buckets
        ],
    }


def _mean(loss: float, perplexity: float, tokens: float) -> dict[str, float | None]:
    return {
        "loss": loss if math.isfinite(loss) else None,
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "tokens": tokens,
    }


if __name__ == "__main__":
    errors.run(partial(command.run, EvaluateConfig, main))
