"""Dataclass schema <-> ConfigDict surface. The dataclasses own every name, type and default."""

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

T = TypeVar("T")


def default(schema: Any) -> ml_collections.ConfigDict:
    """Returns a schema, or a preset of one, as a ConfigDict: every field can be set by a flag."""
    config = ml_collections.ConfigDict()
    hints = typing.get_type_hints(schema if isinstance(schema, type) else type(schema))
    for field in dataclasses.fields(schema):
        kind, optional = _unwrap(hints[field.name])
        value = _default_value(field) if isinstance(schema, type) else getattr(schema, field.name)
        if dataclasses.is_dataclass(kind):
            config[field.name] = default(kind if value is None else value)
        elif _member(kind):
            members = {name: default(member) for name, member in (value or {}).items()}
            config[field.name] = ml_collections.ConfigDict(members)
        elif value is None or optional:  # A plain None could not be set by a flag.
            config[field.name] = config_dict.placeholder(_base(kind))
            if value is not None:
                config[field.name] = value
        else:
            config[field.name] = value
    return config


def parse(schema: type[T], config: ml_collections.ConfigDict, path: str = "config") -> T:
    """Returns `schema` filled from `config`.

    Raises:
        ValueError: A setting is unknown, missing, of the wrong type, out of range, or without
            effect; the message names its dotted path and what to type.
    """
    fields = dataclasses.fields(schema)  # type: ignore[arg-type]  # any dataclass
    hints, names = typing.get_type_hints(schema), [f.name for f in fields]
    _refuse_unknown(config, names, path)
    values = {}
    for field in fields:
        here, (kind, optional) = f"{path}.{field.name}", _unwrap(hints[field.name])
        value = config[field.name] if field.name in config else _default_value(field)
        if value is None and not optional:
            raise ValueError(f"{here} is required. Set it in the config file or with --{here}=...")
        is_given = field.name in config and value is not None
        values[field.name] = _parse_value(kind, value, here) if is_given else value
    try:
        return schema(**values)
    except ValueError as error:  # Range checks live in __post_init__; add where it came from.
        raise ValueError(f"{path}: {error}") from None


def as_dict(config: Any) -> dict[str, Any]:
    """Returns a parsed configuration as plain nested dictionaries that JSON can hold."""
    return dataclasses.asdict(config)


def from_dict(schema: type[T], values: dict[str, Any], path: str = "config") -> T:
    """Returns `schema` from what `as_dict` wrote, also after a round trip through JSON."""
    return parse(schema, ml_collections.ConfigDict(_tuples(values)), path)


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
    """Returns one line for each setting that differs: 'config.seed: 0 -> 1'."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = list(old) + [name for name in new if name not in old]
        return [
            line
            for name in names
            for line in differences(old.get(name), new.get(name), f"{path}.{name}")
        ]
    old, new = _tuples(old), _tuples(new)
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def _refuse_unknown(config: ml_collections.ConfigDict, names: list[str], path: str) -> None:
    for key in config:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean {path}.{close[0]}?" if close else f" It has: {', '.join(names)}."
            raise ValueError(f"{path}.{key} does not exist.{hint}")


def _parse_value(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        _expect_section(value, path)
        return parse(typing.cast(type, kind), value, path)
    if member := _member(kind):
        _expect_section(value, path)
        return {name: _parse_value(member, value[name], f"{path}.{name}") for name in value}
    return _check(kind, value, path)


def _expect_section(value: Any, path: str) -> None:
    if not isinstance(value, dict | ml_collections.ConfigDict):
        raise ValueError(f"{path} is {value!r}; it is a section: set one of the fields in it.")


def _check(kind: Any, value: Any, path: str) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(
                f"{path} is {value!r}; it must be one of {', '.join(map(repr, choices))}."
            )
        return value
    base = _base(kind)
    if base is float and type(value) is int:
        value = float(value)
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        raise ValueError(
            f"{path} is {value!r} ({type(value).__name__}); it must be a {base.__name__}."
        )
    if value != value:
        raise ValueError(f"{path} is nan; it must be a number.")
    if base is tuple:
        member = typing.get_args(kind)[0]
        return tuple(_check(member, item, f"{path}[{i}]") for i, item in enumerate(value))
    return value


def _member(kind: Any) -> Any:
    """Returns the dataclass of a `dict[str, dataclass]`, else None."""
    return typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None


def _base(kind: Any) -> Any:
    """Returns the plain type behind an annotation: str for a Literal of strings."""
    if typing.get_origin(kind) is typing.Literal:
        return type(typing.get_args(kind)[0])
    return typing.get_origin(kind) or kind


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """Splits `T | None` into (T, True), and anything else into (hint, False)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(hint))
    return hint, False


def _default_value(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _tuples(value: Any) -> Any:
    """Returns `value` with every list, as JSON gives them, turned back into a tuple."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value
