"""The files beside the weights: tokenizer, generation settings, licence.

transformers 5 rebuilds its own pipeline from a LlamaTokenizer's files, which loses a space at the
start of a text (5.23, " a" and "a" get the same ids). A PreTrainedTokenizerFast with a
tokenizer.json is used as it stands by 4.31, 4.57 and 5.23, so that is what is written for a
tokenizer that came as a sentencepiece model alone.
"""

import shutil
from pathlib import Path
from typing import Any

from llama_jax.config.model import ModelConfig
from llama_jax.converters import sentencepiece_json
from llama_jax.core import files
from llama_jax.text.tokenizer import load_tokenizer

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
GENERATION = "generation_config.json"
OTHER_FILES = ("config.json", GENERATION, "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md")
Json = dict[str, Any]


def copy(source: Path, destination: Path, names: tuple[str, ...]) -> None:
    """Copies those of the files that are there."""
    for name in names:
        if (source / name).is_file():
            destination.mkdir(exist_ok=True)
            shutil.copyfile(source / name, destination / name)


def special_ids(tokenizer_folder: Path) -> Json:
    """Returns the ids of a config.json; none if there is no tokenizer."""
    if not has_tokenizer(tokenizer_folder):
        return {}
    tokenizer = load_tokenizer(tokenizer_folder)
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def has_tokenizer(folder: Path) -> bool:
    """True if `load_tokenizer` finds one in the folder."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def write_generation_config(folder: Path, ids: Json) -> None:
    """Writes generation_config.json for a model that came without one."""
    if not (folder / GENERATION).exists():
        files.write_json(folder / GENERATION, {"_from_model_config": True, **ids})


def complete_tokenizer(folder: Path, model: ModelConfig) -> None:
    """Writes what AutoTokenizer needs beside a tokenizer that came as one bare file.

    A tokenizer_config.json that is there stays as it is, and so do the files it speaks of.
    """
    if not has_tokenizer(folder) or (folder / "tokenizer_config.json").exists():
        return
    fast, special = folder / "tokenizer.json", sentencepiece_json.DEFAULT_SPECIAL
    if not fast.exists():
        value, special = sentencepiece_json.convert(folder / "tokenizer.model")
        if value is not None:
            files.write_json(fast, value)
    elif load_tokenizer(folder).pad_id is None:
        special = {**special, "pad_token": None}
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast" if fast.exists() else "LlamaTokenizer",
        **special,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,  # Encodes what follows a special token as sentencepiece would.
        "model_max_length": model.context,
    }
    files.write_json(folder / "tokenizer_config.json", values)
