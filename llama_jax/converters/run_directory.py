"""Writes a run directory of converted weights, which everything that takes a run takes too.

config.json        {"model": ..., "commit": ..., "versions": ...}; a run's has "settings" too
tokenizer/         the tokenizer's files
checkpoints/0/     params
huggingface/       files of the Hugging Face folder it was made from, for the way back
"""

from pathlib import Path
from typing import Any

from llama_jax.checkpoint import stream
from llama_jax.config import load
from llama_jax.config.model import ModelConfig
from llama_jax.converters import names
from llama_jax.converters.weights import CHECKPOINTS, CONFIG
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.core.provenance import provenance

HUGGINGFACE = "huggingface"


def write(folder: Path, model: ModelConfig, leaf_of: stream.LeafOf) -> None:
    """Writes config.json, and as step 0 the parameters that `leaf_of` gives by name.

    One of them is in memory at a time.
    """
    files.write_json(folder / CONFIG, {"model": load.as_dict(model), **provenance()})
    (folder / CHECKPOINTS).mkdir()
    ours = [tensor.ours for tensor in names.tensors(model)]
    stream.write(folder / CHECKPOINTS, 0, ours, leaf_of)


def original(folder: Path) -> dict[str, Any] | None:
    """Returns the config.json of the Hugging Face folder it was made from, if it was.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / HUGGINGFACE / CONFIG
    if not path.is_file():
        return None
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a JSON object; it holds {type(values).__name__}.")
    return values
