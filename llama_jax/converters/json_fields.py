"""Fields of a JSON object that came from outside, with their types checked."""

import dataclasses
import math
from typing import Any

from llama_jax.core.errors import DataError

LARGEST = 2**31 - 1  # Counts are multiplied with each other; no published model comes near.


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of one JSON object. An absent field and null are the same: the default.

    Every method raises DataError, naming the field and `where`, for a value of another type or,
    if there is no default, for none.
    """

    values: dict[str, Any]
    where: str

    def count(self, name: str, default: int | None = None) -> int:
        """Returns a whole number from 1 to 2^31 - 1."""
        value = self._value(name, default)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise self._error(name, value, f"a whole number from 1 to {LARGEST}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a finite number."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e300:
            raise self._error(name, value, "a finite number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        value = self._value(name, default)
        if type(value) is not bool:
            raise self._error(name, value, "true or false")
        return value

    def section(self, name: str) -> "Fields | None":
        """Returns an object in this one; None if it is absent or empty."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._error(name, value, "an object")
        return Fields(value, f"{self.where}: {name}") if value else None

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        value = default if value is None else value
        if value is None:
            raise DataError(f"{self.where}: {name} is missing.")
        return value

    def _error(self, name: str, value: Any, must: str) -> DataError:
        return DataError(f"{self.where}: {name} is {value!r:.80}; it must be {must}.")
