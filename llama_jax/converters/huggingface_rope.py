"""Rotary settings of a config.json <-> RopeConfig, in the three dialects that are in use.

    transformers 4.31   rope_theta, rope_scaling {type: linear|dynamic, factor: float}, no more keys
    4.43 and later      rope_theta, rope_scaling {rope_type, factor, ...}
    5.x                 rope_parameters {rope_type, rope_theta, factor, ...}

Both rope_scaling and rope_parameters are written: 4.x knows only the first, 5.x takes the first if
it is not null and else the second (RotaryEmbeddingConfigMixin of
src/transformers/modeling_rope_utils.py). "ntk" is written as the larger rope_theta that it is.

The M of "dynamic" is max_position_embeddings there, and it stretches without a limit; here it is
`original_context`, and `context` says how far. A context other than M * factor is kept in a field
of our own, which transformers carries along.
"""

import math
from typing import Any

from llama_jax.config.model import ModelConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.converters.json_fields import Fields
from llama_jax.core.errors import DataError

DEFAULT_THETA = 10_000.0
OUR_CONTEXT = "llama_jax_context"
_KINDS = ("default", "linear", "dynamic", "yarn", "llama3")  # But for "default", ours too.
_ONLY_4_31 = ("linear", "dynamic")  # What a reader of that age understands.
_ORIGINAL = "original_max_position_embeddings"
# Their further keys of each kind; ours have the same names.
_OPTIONAL = {
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}


def context(fields: Fields, default: int) -> int:
    """Returns the longest sequence in tokens."""
    longest = fields.count("max_position_embeddings", default)
    scaling = _scaling(fields)
    if scaling is None or _kind(scaling) != "dynamic":
        return longest
    reach = max(math.floor(longest * scaling.number("factor")), 1)
    return fields.count(OUR_CONTEXT, reach)


def to_ours(fields: Fields, default_context: int) -> RopeConfig:
    """Returns the rotary settings of a config.json."""
    theta, scaling = _theta(fields), _scaling(fields)
    kind = "default" if scaling is None else _kind(scaling)
    if scaling is None or kind == "default":
        return RopeConfig(theta=theta)
    values: dict[str, Any] = {"theta": theta, "factor": scaling.number("factor")}
    if kind == "dynamic":
        values["original_context"] = fields.count("max_position_embeddings", default_context)
    if kind in _OPTIONAL:
        values["original_context"] = _original_context(fields, scaling)
        values |= _options(scaling, kind)
    return RopeConfig(scaling=kind, **values)  # type: ignore[arg-type]


def to_theirs(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields of a config.json that say how positions turn heads."""
    rope, H = config.rope, config.head_dim
    theta = rope.theta * rope.factor ** (H / (H - 2)) if rope.scaling == "ntk" else rope.theta
    values = {"max_position_embeddings": config.context, "rope_theta": theta}
    if rope.scaling == "dynamic":
        assert rope.original_context is not None
        values["max_position_embeddings"] = rope.original_context
        if config.context != math.floor(rope.original_context * rope.factor):
            values[OUR_CONTEXT] = config.context
    scaling = _their_scaling(rope)
    values["rope_parameters"] = {**(scaling or {"rope_type": "default"}), "rope_theta": theta}
    if scaling and scaling["rope_type"] in _ONLY_4_31:
        scaling = {"type": scaling["rope_type"], "factor": scaling["factor"]}
    # 4.31 refuses a factor of 1, and linear scaling by 1 is none.
    values["rope_scaling"] = None if scaling == {"type": "linear", "factor": 1.0} else scaling
    return values


def _their_scaling(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.scaling in ("none", "ntk"):
        return None
    values: dict[str, Any] = {"rope_type": rope.scaling, "factor": float(rope.factor)}
    if rope.scaling in _OPTIONAL:
        values[_ORIGINAL] = rope.original_context
    for name in _OPTIONAL.get(rope.scaling, ()):
        if getattr(rope, name) is not None:
            values[name] = getattr(rope, name)
    if rope.scaling == "yarn" and not rope.truncate:
        values["truncate"] = False
    return values


def _theta(fields: Fields) -> float:
    """Returns rope_theta, which may stand in three places; where it does, it must be the same."""
    places = [fields, fields.section("rope_scaling"), fields.section("rope_parameters")]
    said = [
        place.number("rope_theta") for place in places if place and "rope_theta" in place.values
    ]
    if len(set(said)) > 1:
        raise DataError(f"{fields.where}: rope_theta is said more than once, and differs: {said}.")
    return said[0] if said else DEFAULT_THETA


def _scaling(fields: Fields) -> Fields | None:
    """Returns rope_scaling, or rope_parameters of 5.x; both may stand if they agree."""
    old, new = fields.section("rope_scaling"), fields.section("rope_parameters")
    if old and new and _meaning(old) != _meaning(new):
        raise DataError(
            f"{fields.where}: rope_scaling is {old.values} but rope_parameters is {new.values}; "
            "they must say the same. Remove the one that is wrong."
        )
    return old or new


def _meaning(scaling: Fields) -> dict[str, Any]:
    values = {k: v for k, v in scaling.values.items() if k not in ("type", "rope_theta")}
    return {**values, "rope_type": _kind(scaling)}


def _kind(scaling: Fields) -> str:
    kind = scaling.values.get("rope_type", scaling.values.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DataError(
            f"{scaling.where}: rope_type is {kind!r}; it must be one of {', '.join(_KINDS)}."
        )
    partial = scaling.values.get("partial_rotary_factor")
    if partial is not None and partial != 1:
        raise DataError(
            f"{scaling.where}: partial_rotary_factor is {partial!r}; only 1.0 is implemented here."
        )
    return kind


def _original_context(fields: Fields, scaling: Fields) -> int:
    """Returns the pretrained context, which some configurations hold beside the section."""
    place = fields if fields.values.get(_ORIGINAL) is not None else scaling
    if place.values.get(_ORIGINAL) is None:
        raise DataError(
            f"{scaling.where}: {_ORIGINAL} is missing; add the context the model was pretrained "
            "with (transformers would take max_position_embeddings, wrong for an extended model)."
        )
    return place.count(_ORIGINAL)


def _options(scaling: Fields, kind: str) -> dict[str, Any]:
    """Returns the settings of one kind; in yarn, transformers reads 0 and null as absent."""
    if kind == "llama3":  # transformers has no defaults for these.
        return {name: scaling.number(name) for name in _OPTIONAL[kind]}
    options = {name: scaling.number(name) for name in _OPTIONAL[kind] if scaling.values.get(name)}
    if not ("mscale" in options and "mscale_all_dim" in options):
        options = {k: v for k, v in options.items() if not k.startswith("mscale")}
    return {**options, "truncate": scaling.flag("truncate", True)}
