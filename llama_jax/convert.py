r"""Converts a model between Hugging Face and this project, both ways.

    python -m llama_jax.convert meta-llama/Llama-2-7b-hf runs/llama2-7b --format=orbax
    python -m llama_jax.convert runs/extended exports/extended --format=hf --dtype=bfloat16
    python -m llama_jax.convert runs/lora exports/adapter --format=peft

SRC is a local folder whose kind is detected: a Hugging Face folder (config.json with model_type,
safetensors), a run directory of this project (config.json with model, checkpoints/), or adapters
(a run with config.lora, or a PEFT folder), which are merged into their base unless --format=peft.
DST must not exist; it appears whole or not at all.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from llama_jax.converters import (
    adapters,
    companions,
    huggingface,
    huggingface_config,
    peft,
    run_directory,
    verify,
    weights,
)
from llama_jax.converters.run_directory import HUGGINGFACE
from llama_jax.converters.safetensors_writer import SHARD_BYTES
from llama_jax.converters.weights import TOKENIZER, Weights
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
    parser.add_argument("--format", choices=("hf", "orbax", "peft"), required=True)
    parser.add_argument("--base", type=Path, help="of adapters; where they say it is if left out")
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
    if options.base and kind != "adapters":
        raise ValueError(f"--base is {options.base}, but {options.source} holds whole weights.")
    if options.format == "peft":
        _to_peft(options, kind)
        return
    if options.format == "orbax":
        params, model = _to_orbax(options, kind)
    elif kind != "hf":
        params, model = _to_huggingface(options)
    else:
        params, model = _between_huggingface(options)
    print(f"wrote {options.destination}")
    if options.verify:
        folder = options.source if kind == "hf" else options.destination
        for difference in verify.compare(model, params(), folder):
            print(difference)


def detect(source: Path) -> str:
    """Returns "hf", "orbax" or "adapters".

    Raises:
        ValueError: There is no such folder.
        DataError: The folder is neither.
    """
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; SRC must be a local folder.")
    if adapters.are_in(source):
        return "adapters"
    config = files.read_json(source / "config.json") if _has_config(source) else {}
    if isinstance(config, dict) and "model_type" in config:
        return "hf"
    if isinstance(config, dict) and "model" in config:
        return "orbax"
    raise DataError(
        f"{source} is neither a Hugging Face folder (config.json with model_type) nor a run "
        "directory (config.json with model), nor a PEFT folder (adapter_config.json)."
    )


def _has_config(source: Path) -> bool:
    return (source / "config.json").is_file()


def _to_orbax(options: argparse.Namespace, kind: str) -> tuple[Any, Any]:
    if kind == "orbax":
        raise ValueError(f"{options.source} is a run directory already; there is nothing to do.")
    if options.dtype == "float16":
        raise ValueError("--dtype is float16; parameters here are float32 or bfloat16.")
    source = _find(options)
    dtype = options.dtype or source.dtype
    with files.new_folder(options.destination) as folder:
        run_directory.write(folder, source.model, lambda name: source.leaf(name, dtype))
        companions.copy(_tokenizer(source), folder / TOKENIZER, companions.TOKENIZER_FILES)
        companions.copy(_others(source), folder / HUGGINGFACE, companions.OTHER_FILES)
    return lambda: source.rounded(dtype), source.model


def _to_huggingface(options: argparse.Namespace) -> tuple[Any, Any]:
    source = _find(options)
    original = _original(source)
    dtype = options.dtype or source.dtype
    config = huggingface_config.to_theirs(source.model, original, dtype=dtype)
    with files.new_folder(options.destination) as folder:
        companions.copy(_others(source), folder, companions.OTHER_FILES)
        companions.copy(_tokenizer(source), folder, companions.TOKENIZER_FILES)
        ids = companions.special_ids(folder) if original is None else {}
        read = huggingface.reader_of(source.leaf, source.model, dtype)
        huggingface.write(folder, {**config, **ids}, source.model, read, _shard_bytes(options))
        if original is None:
            companions.complete_tokenizer(folder, source.model)
            companions.write_generation_config(folder, ids)
    return source.read, source.model


def _to_peft(options: argparse.Namespace, kind: str) -> None:
    if kind != "adapters" or (options.source / peft.CONFIG).is_file():
        raise ValueError(
            f"--format is peft, but {options.source} is not a run of adapters (config.lora.r)."
        )
    for flag in ("dtype", "verify"):
        if getattr(options, flag):
            raise ValueError(f"--{flag} has no effect on adapters. Leave it out.")
    found = adapters.find(options.source, options.step)
    assert found.model is not None
    read = found.read(found.model)
    base = str(options.base or found.base.path)
    with files.new_folder(options.destination) as folder:
        peft.write(folder, found.lora, found.model, read.__getitem__, base)
    print(f"wrote {options.destination}")


def _find(options: argparse.Namespace) -> Weights:
    """Returns what is to be written, adapters merged."""
    if options.base:
        return weights.find(options.base, adapter=options.source)
    return weights.find(options.source, options.step)


def _tokenizer(source: Weights) -> Path:
    """Returns the folder of the tokenizer's files: of adapters without one, their base's."""
    if source.huggingface is not None:
        return source.path
    own = source.path / TOKENIZER
    return own if source.base is None or own.is_dir() else _tokenizer(source.base)


def _others(source: Weights) -> Path:
    """Returns the folder of the other files that came from Hugging Face."""
    origin = source.origin
    return origin.path if origin.huggingface is not None else origin.path / HUGGINGFACE


def _original(source: Weights) -> dict[str, Any] | None:
    origin = source.origin
    if origin.huggingface is not None:
        return origin.huggingface.original
    return run_directory.original(origin.path)


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
