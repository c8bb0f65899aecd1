"""A folder -> a model that continues texts, whatever kind of folder it is.

kind                       what is in it
a Hugging Face folder      config.json (theirs), *.safetensors, tokenizer files
a run or converted folder  config.json (ours), checkpoints/<step>/, tokenizer/
one of its checkpoints     .../checkpoints/<step>
"""

import os
import typing
from pathlib import Path

from llama_jax.checkpoint import layout
from llama_jax.config.model import Dtype
from llama_jax.converters import weights
from llama_jax.converters.weights import Weights
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.serving.language_model import LanguageModel
from llama_jax.text.tokenizer import Tokenizer, load_tokenizer

DTYPES = typing.get_args(Dtype)
GENERATION = "generation_config.json"


def load(
    path: str | os.PathLike,
    step: int | None = None,
    dtype: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    adapter: str | os.PathLike = "",
) -> LanguageModel:
    """Returns the model in a folder, ready to continue texts.

    Args:
        path: A Hugging Face folder, a run directory, a folder of `llama_jax.convert`, or one of the
            checkpoints in it.
        step: Which checkpoint of a run; None takes the newest.
        dtype: float32 or bfloat16, in which parameters are kept and matrices multiplied; None
            takes the one that holds the stored parameters exactly.
        tokenizer: A tokenizer file or its folder; None takes the one in the folder.
        adapter: A run of adapters or a PEFT folder, merged into the model.

    Raises:
        ValueError: There is no such folder, step, dtype or tokenizer, or the tokenizer is another
            model's.
        DataError: A file in the folder is not what it must be.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(map(repr, DTYPES))}.")
    found = weights.find(*_run_of(Path(path), step), adapter)
    words = _tokenizer(found, tokenizer)
    end_ids = _end_ids(found)
    dtype = dtype or found.dtype
    return LanguageModel(found.model, found.rounded(dtype), words, dtype=dtype, end_ids=end_ids)


def _run_of(path: Path, step: int | None) -> tuple[Path, int | None]:
    """Returns the run and the step of .../checkpoints/<step>; other paths as they are."""
    whole = path.absolute()
    checkpoint = whole.parent.name == weights.CHECKPOINTS
    if not checkpoint or not layout.STEP_NAME.fullmatch(whole.name):
        return path, step
    if step not in (None, int(whole.name)):
        raise ValueError(f"step is {step} but {path} is the checkpoint of step {whole.name}.")
    return whole.parent.parent, int(whole.name)


def _tokenizer(found: Weights, given: str | os.PathLike | None) -> Tokenizer:
    path = found.tokenizer if given is None else given
    if path is None:
        raise ValueError(
            f"{found.path} holds no tokenizer.json and no tokenizer.model. Name the model's "
            "tokenizer with tokenizer=... (on the command line: --tokenizer=...)."
        )
    return load_tokenizer(path)


def _end_ids(found: Weights) -> list[int]:
    """Returns the ids that end a text by Hugging Face's settings: none, one or several."""
    origin = found.origin
    folder = origin.path if origin.huggingface is not None else origin.path / "huggingface"
    path, vocab = folder / GENERATION, found.model.vocab
    if not path.is_file():
        return []
    values = files.read_json(path)
    ids = values.get("eos_token_id") if isinstance(values, dict) else None
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    for id in ids:
        if type(id) is not int or not 0 <= id < vocab:
            raise DataError(f"{path}: eos_token_id holds {id!r}; it must be in [0, {vocab}).")
    return ids
