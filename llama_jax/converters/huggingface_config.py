"""config.json of a Hugging Face Llama or Mistral <-> ModelConfig.

What transformers takes for an absent field is taken here too (LlamaConfig and MistralConfig of
transformers 5.23, src/transformers/models/*/configuration_*.py); what would change the numbers and
is not implemented here is refused by name. Rotary settings are in `huggingface_rope`.
"""

from pathlib import Path
from typing import Any

from llama_jax.config.model import ModelConfig
from llama_jax.converters import huggingface_rope
from llama_jax.converters.json_fields import Fields
from llama_jax.core import files
from llama_jax.core.errors import DataError

Json = dict[str, Any]

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
# The defaults of the two classes where they differ; for Llama, None is "as many as heads".
_KV_HEADS = {"llama": None, "mistral": 8}
_CONTEXT = {"llama": 2048, "mistral": 131_072}
# Fields that change the numbers, and the only value that is implemented.
_ONLY = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}


def read(path: Path) -> tuple[ModelConfig, Json]:
    """Returns the model that a config.json describes, and the whole of the file.

    Raises:
        DataError: A field is missing, of the wrong type, or means what is not implemented.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; a Hugging Face folder says in it what the model is.")
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a JSON object; it holds {type(values).__name__}.")
    return to_ours(values, str(path)), values


def to_ours(values: Json, where: str = "config.json") -> ModelConfig:
    """Returns the model that the values of a config.json describe."""
    fields = Fields(values, where)
    kind = _kind(fields)
    heads, embed = fields.count("num_attention_heads"), fields.count("hidden_size")
    kv_heads = _KV_HEADS[kind] if "num_key_value_heads" not in values else None
    try:
        return ModelConfig(
            layers=fields.count("num_hidden_layers"),
            embed=embed,
            mlp=fields.count("intermediate_size"),
            heads=heads,
            kv_heads=fields.count("num_key_value_heads", kv_heads or heads),
            head_dim=fields.count("head_dim", _even_share(embed, heads)),
            vocab=fields.count("vocab_size"),
            context=huggingface_rope.context(fields, _CONTEXT[kind]),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            attention_bias=kind == "llama" and fields.flag("attention_bias", False),
            window=_window(fields) if kind == "mistral" else None,
            init_std=fields.number("initializer_range", 0.02),
            rope=huggingface_rope.to_ours(fields, _CONTEXT[kind]),
        )
    except DataError:
        raise
    except ValueError as error:  # A value that ModelConfig refuses; add where it came from.
        raise DataError(f"{where}: {error}") from None


def to_theirs(config: ModelConfig, original: Json | None = None, *, dtype: str) -> Json:
    """Returns a config.json, for readers from transformers 4.31 to 5.x.

    Args:
        config: The model. Training-only settings (residual_dropout) have no place in it.
        original: The config.json this model was read from; fields that we do not know are kept.
        dtype: Of the tensors: float32, bfloat16 or float16.

    Raises:
        ValueError: No Hugging Face architecture computes this model.
    """
    kind = (original or {}).get("model_type", "llama")
    kind = "mistral" if config.window is not None else kind
    if kind == "mistral" and config.attention_bias:
        raise ValueError(
            "the model has a sliding window and attention_bias; Mistral has no biases and Llama "
            "no window, so no Hugging Face architecture computes it."
        )
    kept = {k: v for k, v in (original or {}).items() if k not in _REPLACED}
    values = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        **_ONLY_WRITTEN,
        **kept,
        "hidden_size": config.embed,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocab,
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
        **huggingface_rope.to_theirs(config),
    }
    values |= {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
    values |= {"dtype": dtype} if "dtype" in values else {}
    values |= {"sliding_window": config.window} if kind == "mistral" else {}
    values |= {"attention_bias": config.attention_bias} if kind == "llama" else {}
    if "head_dim" in values or config.head_dim * config.heads != config.embed:
        values["head_dim"] = config.head_dim
    return values


# Said again elsewhere in a config.json that is written: a value of before could contradict.
_REPLACED = ("original_max_position_embeddings", "layer_types", huggingface_rope.OUR_CONTEXT)
# Said in a config.json that is written from nothing.
_ONLY_WRITTEN = {"hidden_act": "silu", "mlp_bias": False, "attention_dropout": 0.0}


def _kind(fields: Fields) -> str:
    """Returns "llama" or "mistral", after refusing what is neither or has unknown parts."""
    kind = fields.values.get("model_type")
    if kind not in ARCHITECTURES:
        raise DataError(
            f"{fields.where}: model_type is {kind!r}; it must be one of "
            f"{', '.join(map(repr, ARCHITECTURES))}."
        )
    named = fields.values.get("architectures")
    if named is not None and named != [ARCHITECTURES[kind]]:
        raise DataError(
            f"{fields.where}: architectures is {named!r}; it must be [{ARCHITECTURES[kind]!r}]."
        )
    for name, only in _ONLY.items():
        value = fields.values.get(name)
        if value is not None and value != only:
            raise DataError(
                f"{fields.where}: {name} is {value!r}; only {only!r} is implemented here."
            )
    if kind == "mistral" and fields.values.get("attention_bias"):
        raise DataError(f"{fields.where}: attention_bias is set; Mistral has no biases.")
    _check_layer_types(fields, kind)
    return kind


def _check_layer_types(fields: Fields, kind: str) -> None:
    """Refuses a mixture of windowed and full layers, which newer configurations can ask for."""
    kinds = fields.values.get("layer_types")
    windowed = kind == "mistral" and _window(fields) is not None
    only = "sliding_attention" if windowed else "full_attention"
    if kinds is not None and (not isinstance(kinds, list) or set(map(str, kinds)) != {only}):
        raise DataError(
            f"{fields.where}: layer_types is {kinds!r}; every layer must be {only!r} here."
        )


def _window(fields: Fields) -> int | None:
    if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
        return None
    return fields.count("sliding_window", 4096)


def _even_share(embed: int, heads: int) -> int | None:
    """Returns the head size of a config.json that does not say it; None if it must."""
    return None if embed % heads else embed // heads
