r"""Converts a model between Hugging Face and this project, both ways.

    python -m llama_jax.convert meta-llama/Llama-2-7b-hf runs/llama2-7b --format=orbax
    python -m llama_jax.convert runs/extended exports/extended --format=hf --dtype=bfloat16

SRC is a local folder whose kind is detected: a Hugging Face folder (config.json with model_type,
safetensors) or a run directory of this project (config.json with model, checkpoints/). DST must
not exist; it appears whole or not at all.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from llama_jax.converters import (
    companions,
    huggingface,
    huggingface_config,
    run_directory,
    verify,
    weights,
)
from llama_jax.converters.run_directory import HUGGINGFACE
from llama_jax.converters.safetensors_writer import SHARD_BYTES
from llama_jax.converters.weights import TOKENIZER
from llama_jax.core import errors, files
from llama_jax.core.errors import DataError


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="folder to read")
    parser.add_argument("destination", metavar="DST", type=Path, help="folder to write")
    parser.add_argument("--format", choices=("hf", "orbax"), required=True, help="what DST is")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; as stored if left out (float16 becomes float32 in orbax)",
    )
    parser.add_argument("--step", type=int, help="of a run directory; the newest if left out")
    parser.add_argument(
        "--shard_gigabytes", type=float, default=SHARD_BYTES / 1e9, help="most of one file of hf"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare logits with transformers (needs torch)"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Converts as the command line says."""
    options = parser().parse_args(arguments)
    if options.verify:
        verify.require_torch()
    if options.shard_gigabytes <= 0:
        raise ValueError(f"--shard_gigabytes is {options.shard_gigabytes}; it must be positive.")
    kind = detect(options.source)
    if kind == "hf" and options.step is not None:
        raise ValueError(f"--step is {options.step}, but {options.source} has no steps.")
    if options.format == "orbax":
        params, model = _to_orbax(options, kind)
    elif kind == "orbax":
        params, model = _to_huggingface(options)
    else:
        params, model = _between_huggingface(options)
    print(f"wrote {options.destination}")
    if options.verify:
        folder = options.source if kind == "hf" else options.destination
        for difference in verify.compare(model, params(), folder):
            print(difference)


def detect(source: Path) -> str:
    """Returns "hf" or "orbax".

    Raises:
        ValueError: There is no such folder.
        DataError: The folder is neither.
    """
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; SRC must be a local folder.")
    config = files.read_json(source / "config.json") if _has_config(source) else {}
    if isinstance(config, dict) and "model_type" in config:
        return "hf"
    if isinstance(config, dict) and "model" in config:
        return "orbax"
    raise DataError(
        f"{source} is neither a Hugging Face folder (config.json with model_type) nor a run "
        "directory (config.json with model)."
    )


def _has_config(source: Path) -> bool:
    return (source / "config.json").is_file()


def _to_orbax(options: argparse.Namespace, kind: str) -> tuple[Any, Any]:
    if kind == "orbax":
        raise ValueError(f"{options.source} is a run directory already; there is nothing to do.")
    if options.dtype == "float16":
        raise ValueError("--dtype is float16; parameters here are float32 or bfloat16.")
    source = huggingface.Folder(options.source)
    with files.new_folder(options.destination) as folder:
        run_directory.write(folder, source.model, lambda name: source.leaf(name, options.dtype))
        companions.copy(source.path, folder / TOKENIZER, companions.TOKENIZER_FILES)
        companions.copy(source.path, folder / HUGGINGFACE, companions.OTHER_FILES)
    return lambda: source.params(options.dtype), source.model


def _to_huggingface(options: argparse.Namespace) -> tuple[Any, Any]:
    source = weights.find(options.source, options.step)
    original = run_directory.original(source.path)
    dtype = options.dtype or source.dtype
    config = huggingface_config.to_theirs(source.model, original, dtype=dtype)
    with files.new_folder(options.destination) as folder:
        companions.copy(source.path / HUGGINGFACE, folder, companions.OTHER_FILES)
        companions.copy(source.path / TOKENIZER, folder, companions.TOKENIZER_FILES)
        ids = companions.special_ids(folder) if original is None else {}
        read = huggingface.reader_of(source.leaf, source.model, dtype)
        huggingface.write(folder, {**config, **ids}, source.model, read, _shard_bytes(options))
        if original is None:
            companions.complete_tokenizer(folder, source.model)
            companions.write_generation_config(folder, ids)
    return source.read, source.model


def _between_huggingface(options: argparse.Namespace) -> tuple[Any, Any]:
    source = huggingface.Folder(options.source)
    dtype = options.dtype or source.dtype
    config = huggingface_config.to_theirs(source.model, source.original, dtype=dtype)
    with files.new_folder(options.destination) as folder:
        companions.copy(source.path, folder, companions.OTHER_FILES + companions.TOKENIZER_FILES)
        read = lambda name: source.read(name, dtype)  # noqa: E731
        huggingface.write(folder, config, source.model, read, _shard_bytes(options))
    return source.params, source.model


def _shard_bytes(options: argparse.Namespace) -> int:
    return int(options.shard_gigabytes * 1e9)


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
