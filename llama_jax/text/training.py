"""Trains a sentencepiece tokenizer as Llama 2's was trained."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

import sentencepiece

from llama_jax.config.prepare import TokenizerTrainingConfig

# Llama 2's `trainer_spec` and `normalizer_spec`, as they stand inside its tokenizer.model
# (https://arxiv.org/abs/2307.09288, section 2.2: BPE, split digits, byte fallback).
LLAMA2: dict[str, Any] = {
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "character_coverage": 0.99995,
    "max_sentence_length": 4192,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
}


def train_tokenizer(texts: Iterable[str], config: TokenizerTrainingConfig) -> bytes:
    """Returns a sentencepiece model; the same texts in the same order give the same bytes.

    Raises:
        ValueError: The texts are too few for so many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            vocab_size=config.vocab,
            num_threads=16,  # Written into the model, so it must not depend on the machine.
            minloglevel=2,
            **LLAMA2,
        )
    except RuntimeError as error:
        reason = str(error).split("] ")[-1].rstrip(".")  # Before it stands where in C++.
        raise ValueError(
            f"no tokenizer of {config.vocab} pieces can be trained on these texts: {reason}. "
            "Use more text or another config.tokenizer_training.vocab."
        ) from None
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yields lines: a line end never stands inside a piece, it is the byte piece <0x0A>."""
    for text in texts:
        yield from (line for line in text.split("\n") if line)
