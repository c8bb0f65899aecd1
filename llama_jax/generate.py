"""Continues a prompt, and prints the continuation as it is made.

python -m llama_jax.generate --checkpoint=DIR --prompt="Once upon a time" --temperature=0.8
"""

import argparse
import sys
import time

from llama_jax.config.generate import GenerateConfig
from llama_jax.core import errors
from llama_jax.core.errors import DataError
from llama_jax.serving.load import DTYPES, load

DEFAULT = GenerateConfig()


def main(arguments: list[str] | None = None) -> None:
    """Prints the continuation of --prompt to stdout."""
    flags = parser().parse_args(arguments)
    prompt = _stdin() if flags.prompt == "-" else flags.prompt
    settings = {name: getattr(flags, name) for name in vars(DEFAULT)} | {"stop": tuple(flags.stop)}
    GenerateConfig(**settings)  # Reading a large model takes minutes: mistakes are told before.
    _status(f"reading {flags.checkpoint}")
    model = load(flags.checkpoint, flags.step, flags.dtype, flags.tokenizer, flags.adapter)
    start = time.monotonic()
    first = None
    for piece in model.stream(prompt, **settings):
        if first is None:
            first = time.monotonic() - start
        print(piece, end="", flush=True)
    print(flush=True)
    _status(f"{first or 0:.1f} s to the first text, {time.monotonic() - start:.1f} s in all")


def parser() -> argparse.ArgumentParser:
    """Returns the flags; those of generation are the fields of `GenerateConfig`."""
    p = argparse.ArgumentParser(
        prog="python -m llama_jax.generate",
        description="Continues a prompt, and prints the continuation as it is made.",
        allow_abbrev=False,
    )
    add = p.add_argument
    add("--checkpoint", required=True, help="Hugging Face folder, run directory or checkpoint")
    add("--prompt", required=True, help="text to continue; '-' reads it from stdin")
    add("--max-new-tokens", type=int, help="at most so many tokens (default: up to the context)")
    add("--max-length", type=int, help="the same with the prompt counted")
    add("--temperature", type=float, help="0 (default) takes the likeliest token")
    add("--top-k", type=int, help="choose among the k likeliest tokens; 0 (default): all")
    add("--top-p", type=float, help="choose among the likeliest with this mass; 1 (default): all")
    add("--repetition-penalty", type=float, help="above 1 discourages tokens seen (default: 1)")
    add("--stop", action="append", help="end before this text; may be given several times")
    add("--seed", type=int, help="the same seed gives the same text (default: 0)")
    add("--tokenizer", help="tokenizer file or folder, if the checkpoint has none")
    add("--adapter", default="", help="run of adapters or PEFT folder to merge into it")
    add("--step", type=int, help="checkpoint of a run (default: the newest)")
    add("--dtype", choices=DTYPES, help="default: the one that holds the parameters exactly")
    p.set_defaults(**vars(DEFAULT) | {"stop": []})
    return p


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"stdin is not UTF-8: byte {error.start} is {error.reason}.") from None


def _status(sentence: str) -> None:
    if sys.stderr.isatty():
        print(f"generate: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    errors.run(main)
