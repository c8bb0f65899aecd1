"""The command line of a door with a recipe: --config=configs/X.py --config.any.setting=value."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from absl import app, flags, logging
from ml_collections import config_flags

from llama_jax.config import load, toy

T = TypeVar("T")


def run(
    schema: type[T],
    main: Callable[[T], int | None],
    instead: Mapping[str, Callable[[str], int | None]] = MappingProxyType({}),
) -> None:
    """Calls `main` with the settings of the command line and exits with what it returns.

    Args:
        schema: The dataclass of the command's settings.
        main: The command.
        instead: Flags that take the place of --config, and what is called with their value.

    Raises:
        ValueError: A flag or a setting is wrong; the message names it and what to type.
    """
    config = config_flags.DEFINE_config_file("config", help_string="A recipe: configs/X.py")
    for name, other in instead.items():
        flags.DEFINE_string(name, None, str(other.__doc__).splitlines()[0])

    def start(arguments: Sequence[str]) -> int | None:
        # absl shows INFO by default, and libraries log there; messages of ours are printed.
        logging.set_verbosity(logging.WARNING)
        refuse_positionals(arguments)
        for name, other in instead.items():
            if (value := flags.FLAGS[name].value) is not None:
                if config.value is not None:
                    raise ValueError(f"--{name} needs no recipe. Leave out --config.")
                return other(value)
        if config.value is None:
            raise ValueError(f"{arguments[0]} needs a recipe: --config=configs/X.py")
        _shrink_toys(config)
        return main(load.parse(schema, config.value))

    app.run(start, flags_parser=parse_flags)


def _shrink_toys(config: flags.FlagHolder) -> None:
    """Makes the recipe a toy if it says so; what the command line says comes last."""
    if "toy" in config.value and config.value.toy is True:
        toy.shrink(config.value)
        given = config_flags.get_override_values(flags.FLAGS[config.name])
        config.value.update_from_flattened_dict(given)


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Reads the flags of a command; returns the words that are none.

    Raises:
        ValueError: A flag does not exist, or its value has another type.
    """
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        raise ValueError(str(error)) from None
    except (KeyError, AttributeError) as error:
        # ml_collections, of an unknown section or setting, with the nearest name.
        if "Did you mean" not in str(error):
            raise
        cause = error.args[0]
        name, hint = (cause.args[0] if isinstance(cause, KeyError) else cause).split("\n")
        raise ValueError(f"--config has no setting {name}. {hint}") from None


def refuse_positionals(arguments: Sequence[str]) -> None:
    """Checks that a command line holds flags only; absl would ignore anything else silently.

    Args:
        arguments: What absl left over; the first is the program.

    Raises:
        ValueError: A word stands alone, such as seed=1 where --config.seed=1 was meant.
    """
    if len(arguments) > 1:
        word = arguments[1]
        hint = f" Did you mean --config.{word}?" if "=" in word else " Settings are --config.x=y."
        raise ValueError(f"{word!r} is not a flag, so it has no effect.{hint}")
