"""A compiled program as text -> computations, instructions, and how often each runs.

Only what planning asks is read: shapes, operands, attributes, calls and loops. The text is that of
`jax.stages.Compiled.as_text()`; its grammar: https://openxla.org/xla/hlo_dumps and, for loops'
counts, `known_trip_count` in an instruction's backend_config.
"""

import collections
import dataclasses
import math
import re
from functools import cached_property

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # All others say it: bf16, s4, f8e4m3fn.
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLS = re.compile(
    r"\b(calls|body|condition|to_apply|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape."""

    dtype: str
    dims: tuple[int, ...]
    space: int  # Memory space: 0 is the device's main memory; a TPU's 1 is on the chip, 5 the host.

    @property
    def bytes(self) -> int:
        """Returns the size without the padding of its layout."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.findall(r"\d+", self.dtype)[0])
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """name = shape opcode(operands), attributes."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    literal: str  # What stands between the parentheses: the value of a constant.
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Returns the arrays of the result; a tuple has several."""
        return arrays(self.shape)

    @property
    def bytes(self) -> int:
        """Returns the size of the result."""
        return sum(array.bytes for array in self.arrays)

    def called(self, *kinds: str) -> list[str]:
        """Returns the computations that it calls as one of `kinds` (body, calls, ...)."""
        found = []
        for kind, names in _CALLS.findall(self.attributes):
            if kind in kinds:
                found += re.findall(r"[\w.\-]+", names)
        return found

    @property
    def op_name(self) -> str:
        """Returns where in the Python program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: str

    @cached_property
    def runs(self) -> dict[str, int]:
        """Returns how often each computation that moves data runs in one call of the program.

        Fusions, loops, calls and branches are followed; each branch counts as taken.
        """
        found: dict[str, int] = collections.defaultdict(int)
        found[self.entry] = 1
        for name in self._callers_first():
            for instruction in self.computations[name].values():
                times = found[name] * self.trips(instruction)
                for called in _followed(instruction):
                    found[called] += times
        return dict(found)

    def trips(self, instruction: Instruction) -> int:
        """Returns how often a loop's body runs for one run of the loop; 1 for all else.

        A loop whose count stands nowhere, such as the one over tokens to decode, counts as one.
        """
        if instruction.opcode != "while":
            return 1
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', instruction.attributes)
        if known:
            return int(known[1])
        (condition,) = instruction.called("condition")
        return self._bound(condition) or 1

    def _bound(self, condition: str) -> int | None:
        """Returns n of a condition `counter < n`; counters of XLA's loops start at 0."""
        instructions = self.computations[condition]
        root = next(i for i in instructions.values() if i.is_root)
        if root.opcode == "fusion":  # The comparison is inside, its bound may be an operand.
            constants = [instructions[name] for name in root.operands if name in instructions]
        elif root.opcode == "compare" and "direction=LT" in root.attributes:
            constants = [instructions[name] for name in root.operands]
        else:
            return None
        bounds = [int(i.literal) for i in constants if i.opcode == "constant" and "[]" in i.shape]
        return bounds[0] if len(bounds) == 1 else None

    def _callers_first(self) -> list[str]:
        """Returns the computations that run, each after all that call it."""
        order: list[str] = []
        seen = {self.entry}
        stack = [(self.entry, iter(self._callees(self.entry)))]
        while stack:
            name, callees = stack[-1]
            following = next(callees, None)
            if following is None:
                order.append(name)
                stack.pop()
            elif following not in seen:
                seen.add(following)
                stack.append((following, iter(self._callees(following))))
        return order[::-1]

    def _callees(self, name: str) -> list[str]:
        instructions = self.computations[name].values()
        return [called for instruction in instructions for called in _followed(instruction)]


def parse(text: str) -> Module:
    """Returns the program that `text` writes down."""
    computations: dict[str, Computation] = {}
    entry = ""
    current: Computation = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(line, found)
            current[instruction.name] = instruction
    return Module(computations, entry)


def arrays(shape: str) -> tuple[Array, ...]:
    """Returns the arrays that a shape, or a tuple of shapes, is made of."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        size = tuple(int(n) for n in dims.split(",")) if dims else ()
        found.append(Array(dtype, size, int(space[1]) if space else 0))
    return tuple(found)


def _followed(instruction: Instruction) -> list[str]:
    """Returns the computations whose instructions run as part of this one.

    Not the scalar functions of reductions, sorts and scatters.
    """
    if instruction.opcode == "call":
        return instruction.called("to_apply", "calls")
    return instruction.called(
        "calls", "body", "branch_computations", "true_computation", "false_computation"
    )


def _instruction(line: str, found: re.Match) -> Instruction:
    rest = line[found.end() :]
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    end = _closing(rest, opening)
    inside = rest[opening + 1 : end - 1]
    return Instruction(
        name=found[2],
        opcode=rest[:opening],
        shape=shape,
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        literal=inside,
        attributes=rest[end:],
        is_root=bool(found[1]),
    )


def _closing(text: str, start: int) -> int:
    """Returns the index after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise AssertionError(f"unbalanced: {text[:80]}")
