"""Settings that are set though nothing reads them."""

import dataclasses
from typing import Any


def default(schema: Any, name: str) -> Any:
    """Returns the default of a field of a dataclass, or of an instance of it."""
    entry = schema.__dataclass_fields__[name]
    factory = entry.default_factory
    return entry.default if factory is dataclasses.MISSING else factory()


def refuse_idle(config: Any, names: tuple[str, ...], because: str, path: str = "") -> None:
    """Refuses settings that differ from their defaults though nothing reads them.

    `path` is that of `config`, as in "loss_scale.", where the message does not begin with it.

    Raises:
        ValueError: One of `names` is set.
    """
    for name in names:
        if getattr(config, name) != default(config, name):
            raise ValueError(
                f"{path}{name} is {getattr(config, name)!r} but {because}, so it has no effect. "
                "Leave it out, or change that."
            )
