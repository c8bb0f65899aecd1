"""A sentencepiece model of Llama's kind as a tokenizer.json that encodes every text equally.

Format: https://github.com/huggingface/tokenizers, as its LlamaTokenizerFast of transformers 4.
"""

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from llama_jax.core.errors import DataError
from llama_jax.text import added_tokens

Json = dict[str, Any]
_ModelProto: Any = sentencepiece_model_pb2.__dict__[
    "ModelProto"
]  # Made at import; no checker sees it.
DEFAULT_SPECIAL: Json = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}


def convert(path: Path) -> tuple[Json | None, Json]:
    """Returns (tokenizer.json, special tokens); None if the model is not of Llama's kind.

    Llama's kind: BPE with byte fallback, no normalisation, "▁" before the text.

    Raises:
        DataError: The file is not a sentencepiece model, or added_tokens.json contradicts it.
    """
    proto = _ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise DataError(f"{path} is not a sentencepiece model: {error}.") from None
    spec = proto.trainer_spec
    special = {
        "bos_token": spec.bos_piece,
        "eos_token": spec.eos_piece,
        "unk_token": spec.unk_piece,
        "pad_token": spec.pad_piece if spec.pad_id >= 0 else None,
    }
    if not _is_like_llama(proto):
        return None, special
    value, known = _tokenizer_json(proto), {p.piece: id for id, p in enumerate(proto.pieces)}
    added = added_tokens.read(path.parent / added_tokens.FILE, known, len(known))
    names = {id: name for name, id in added.items()}
    for id in range(len(known), max(names, default=-1) + 1):
        # The library counts ids on, whatever stands in the file: an unused one needs a name.
        name = names.get(id, f"<unused_{id}>")
        value["added_tokens"].append({"id": id, "content": name, "special": True, **_NO_STRIPPING})
    return value, special


def _is_like_llama(proto: Any) -> bool:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    piece = _ModelProto.SentencePiece
    return (
        trainer.model_type == trainer.BPE
        and trainer.byte_fallback
        and normalizer.add_dummy_prefix
        and not normalizer.remove_extra_whitespaces
        and not normalizer.precompiled_charsmap
        and not any(p.type in (piece.USER_DEFINED, piece.UNUSED) for p in proto.pieces)
    )


def _tokenizer_json(proto: Any) -> Json:
    trainer, piece = proto.trainer_spec, _ModelProto.SentencePiece
    special = [
        {"id": id, "content": p.piece, "special": True, **_NO_STRIPPING}
        for id, p in enumerate(proto.pieces)
        if p.type in (piece.UNKNOWN, piece.CONTROL)
    ]
    scores = {p.piece: p.score for p in proto.pieces if p.type == piece.NORMAL}
    bos = {"SpecialToken": {"id": trainer.bos_piece, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                bos,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": trainer.bos_piece, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                trainer.bos_piece: {
                    "id": trainer.bos_piece,
                    "ids": [trainer.bos_id],
                    "tokens": [trainer.bos_piece],
                }
            },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace("▁", " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": trainer.unk_piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {p.piece: id for id, p in enumerate(proto.pieces)},
            "merges": _merges(scores),
        },
    }


_NO_STRIPPING = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _replace(old: str, new: str) -> Json:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _merges(scores: dict[str, float]) -> list[str]:
    """Returns the pairs that make each piece, best piece first, as "left right".

    One string per pair: tokenizers 0.13 (transformers 4.31) reads no other form.
    """
    pairs = [
        (-scores[piece], order, f"{piece[:cut]} {piece[cut:]}")
        for order, piece in enumerate(scores)
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [pair for _, _, pair in sorted(pairs, key=lambda entry: entry[:2])]
