"""Documents in, a tokenizer and token files out.

    python -m llama_jax.prepare --config=configs/demo_prepare.py

Writes `output`, whole or not at all:

    tokenizer/          trained on the training documents, or copied
    NAME/train/         a prepared folder for each source: the `path` of a source in a mixture
    NAME/held_out/      whole documents that training never sees; absent with held_out=0
    report.json         documents, words, tokens, what was left out and why, for each source
    lengths.png         how long the documents are
    contamination.json  which documents were removed because they repeat an evaluation set
    recipe.json         the settings; the same command again finds its work done

What an interrupted run has finished is kept beside the output, and the same command continues.

    python -m llama_jax.prepare --verify=runs/demo/data

reads every prepared folder in a folder and compares it with its manifest.
"""

import gc
import json
import shutil
import signal
from functools import partial
from pathlib import Path

from llama_jax.config import command, load
from llama_jax.config.prepare import PrepareConfig
from llama_jax.core import errors, files
from llama_jax.core.errors import DataError
from llama_jax.data import tokens
from llama_jax.data.preparation import merge, parts, vocabulary
from llama_jax.data.preparation.account import Account
from llama_jax.data.preparation.executors import execute
from llama_jax.data.preparation.job import Job
from llama_jax.telemetry import progress
from llama_jax.text import added_tokens
from llama_jax.text.tokenizer import load_tokenizer


def prepare(config: PrepareConfig) -> None:
    """Writes config.output, or finds it written by the same settings; prints what is there.

    Raises:
        ValueError: The output exists and other settings made it, or a source does not exist.
        DataError: A document is unreadable and text.on_error is "stop", or there is none.
    """
    output = Path(config.output)
    work = output.parent / f".{output.name}.preparing"
    if output.exists():
        _check_recipe(output, config)
        print(f"{output} is there already, made by these settings.")
    elif not _build_or_clear(output, work, config):
        return  # A cluster does it.
    shutil.rmtree(work, ignore_errors=True)
    _print_table(output)
    if config.added_tokens:
        rows = added_tokens.padded(load_tokenizer(output / "tokenizer").vocab_size)
        print(f"The tokenizer has added tokens. Train with --config.model.vocab={rows} or more.")


def _build_or_clear(output: Path, work: Path, config: PrepareConfig) -> bool:
    """Builds; after a failure, finished parts are kept if the same settings can use them."""
    try:
        return _build(output, work, config)
    except BaseException as error:
        if type(error) is ValueError or not any((work / "parts").glob("*")):
            shutil.rmtree(work, ignore_errors=True)
        raise


def _build(output: Path, work: Path, config: PrepareConfig) -> bool:
    """Writes the output; returns False if a cluster has only been asked to."""
    for name, source in config.sources.items():
        if source.format == "prepared" or tokens.is_store(source.path):
            raise ValueError(f"config.sources.{name}.path is {source.path}, which is prepared.")
    tokenizer = work / f"tokenizer-{parts.digest(parts.parts_of(config), config)}"
    vocabulary.make(tokenizer, config)
    job = Job.start(config, work, tokenizer)
    return execute(job.stages(output), config.executor, work / "logs" / job.digest)


def verify(folder: str) -> None:
    """Compares prepared folders, `folder` or those in it, with their manifests; one line for each.

    Raises:
        ValueError: There is none.
        DataError: One is damaged; the others are verified nevertheless.
    """
    found = sorted(path.parent for path in Path(folder).rglob(tokens.MANIFEST))
    if not found:
        raise ValueError(f"{folder} is no prepared folder and holds none. Name another.")
    damaged = []
    for path in found:
        try:
            print(f"{path}: {_verify(path)}")
        except DataError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError("\n".join(damaged))


def _verify(path: Path) -> str:
    store = tokens.TokenStore(path)
    entries = [store.manifest.offsets, *store.manifest.shards]
    total = sum(entry.bytes for entry in entries)
    with progress.bar(f"Verifying {path}", total, "bytes") as show:
        store.verify(show)
    return f"{store.manifest.documents:,} documents of {store.tokens:,} tokens, as written"


def _check_recipe(output: Path, config: PrepareConfig) -> None:
    if not (output / merge.RECIPE).is_file():
        raise ValueError(
            f"{output} exists already and holds no {merge.RECIPE}. Set config.output to a new "
            "folder."
        )
    old = files.read_json(output / merge.RECIPE)
    if different := load.differences(old, parts.recipe(config)):
        raise ValueError(
            f"{output} was made by other settings:\n  "
            + "\n  ".join(different)
            + "\nSet config.output to a new folder, or remove this one."
        )


def _print_table(output: Path) -> None:
    """Prints what was written, a line for each folder, and what was left out."""
    tokenizer = load_tokenizer(output / "tokenizer")
    report = json.loads((output / merge.REPORT).read_text())
    folders = [
        (name, output / name / split)
        for name in report
        for split in ("train", "held_out")
        if (output / name / split).is_dir()
    ]
    width = max(len("tokenizer"), *(len(str(path)) for _, path in folders))
    print(f"{'where':{width}}  {'documents':>10}{'tokens':>16}{'bytes/token':>13}")
    print(f"{output / 'tokenizer'!s:{width}}  {'':>10}{tokenizer.vocab_size:>16,}")
    for _, path in folders:
        found = tokens.TokenStore(path, tokenizer).manifest
        # Ids that came without their texts have none.
        ratio = f"{found.text_bytes / found.tokens:.2f}" if found.text_bytes else "-"
        print(f"{path!s:{width}}  {found.documents:>10,}{found.tokens:>16,}{ratio:>13}")
    for name, value in report.items():
        account = Account.of_json(value)
        dropped = ", ".join(f"{count} {reason}" for reason, count in account.dropped.items())
        changed = "".join(f"; {count} {how}" for how, count in account.reshaped.items())
        print(f"{name}: {account.words:,} words; left out: {dropped or 'nothing'}{changed}")


if __name__ == "__main__":
    gc.callbacks.clear()  # JAX's swallows an interrupt that comes inside of it; none is needed.
    # SIGTERM removes the unfinished folder too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    errors.run(partial(command.run, PrepareConfig, prepare, {"verify": verify}))
