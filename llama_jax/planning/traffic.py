"""Bytes that a compiled program reads from and writes to a device's main memory, by formula.

Every instruction outside a fusion reads its operands and writes its result once, as often as the
loops around it run. What only renames is free. Slices count what they touch: dynamic-slice its
result, dynamic-update-slice twice its update; inside a fusion the same holds for an operand that is
only sliced, or only updated in place. Buffers on the chip (a TPU's VMEM) are free. A GPU's caches
are not modelled, so there this is an upper bound.
"""

import math

from llama_jax.planning.hlo import Computation, Instruction, Module

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "iota", "domain",
}  # fmt: skip
_SLICES = {"dynamic-slice", "gather", "slice"}
_RENAMES = {"bitcast", "copy", "convert"}  # Inside a fusion only what is asked for is computed.


def main_memory_bytes(module: Module) -> int:
    """Returns the bytes moved in one call of the program, on one device."""
    inside = inside_others(module)
    total = 0
    for name, times in module.runs.items():
        if name not in inside:
            instructions = module.computations[name]
            total += times * sum(moved(module, instructions, i) for i in instructions.values())
    return total


def inside_others(module: Module) -> set[str]:
    """Returns the computations whose memory the instruction that calls them accounts for."""
    return {
        called
        for instructions in module.computations.values()
        for i in instructions.values()
        if i.opcode == "fusion" or i.opcode.startswith("async")
        for called in i.called("calls")
    }


def moved(module: Module, around: Computation, instruction: Instruction) -> int:
    """Returns the bytes that an instruction of the computation `around` moves."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode.endswith("-start"):  # Its result names the operand too.
        return _main(instruction)
    if opcode == "fusion":
        return _fusion(module, around, instruction)
    if opcode in _SLICES:
        return 2 * _main(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _main(around[instruction.operands[1]])
    return sum(_main(around[name]) for name in instruction.operands) + _main(instruction)


def _fusion(module: Module, around: Computation, fusion: Instruction) -> int:
    (called,) = fusion.called("calls")
    inside = module.computations[called]
    read = 0
    for parameter in [i for i in inside.values() if i.opcode == "parameter"]:
        whole = _main(around[fusion.operands[int(parameter.literal)]])
        read += min(whole, _read(module, inside, parameter))
    return read + min(_main(fusion), _written(module, inside, _root(inside)))


def _read(module: Module, inside: Computation, value: Instruction) -> int:
    """Returns the bytes that a fused computation reads of one of its parameters."""
    total = 0
    for user in inside.values():
        if value.name not in user.operands:
            continue
        place = user.operands.index(value.name)
        if user.opcode in _SLICES and place == 0:
            total += user.bytes
        elif user.opcode in _RENAMES or _passed(module, user) == place:
            total += value.bytes if user.is_root else _read(module, inside, user)
        elif user.opcode == "fusion":
            deeper = module.computations[user.called("calls")[0]]
            total += _read(module, deeper, _parameter(deeper, place))
        elif user.opcode == "dynamic-update-slice" and place == 0:
            total += inside[user.operands[1]].bytes
        else:
            total += value.bytes
    return total


def _written(module: Module, inside: Computation, value: Instruction) -> int:
    """Returns the bytes that a fused computation writes of one of its values."""
    if value.opcode == "tuple":
        return sum(_written(module, inside, inside[name]) for name in value.operands)
    if value.opcode == "dynamic-update-slice":
        return inside[value.operands[1]].bytes
    passed = 0 if value.opcode in _RENAMES else _passed(module, value)
    if passed is not None:
        source = inside[value.operands[passed]]
        return value.bytes if source.opcode == "parameter" else _written(module, inside, source)
    if value.opcode == "fusion":
        deeper = module.computations[value.called("calls")[0]]
        return _written(module, deeper, _root(deeper))
    return value.bytes


def _passed(module: Module, fusion: Instruction) -> int | None:
    """Returns which operand a fusion only renames (changes the layout of), if that is all."""
    if fusion.opcode != "fusion":
        return None
    inside = module.computations[fusion.called("calls")[0]]
    value = _root(inside)
    while value.opcode in _RENAMES:
        value = inside[value.operands[0]]
    return int(value.literal) if value.opcode == "parameter" else None


def _root(inside: Computation) -> Instruction:
    return next(i for i in inside.values() if i.is_root)


def _parameter(inside: Computation, index: int) -> Instruction:
    return next(i for i in inside.values() if i.opcode == "parameter" and int(i.literal) == index)


def _main(instruction: Instruction) -> int:
    """Returns the bytes in main memory of a result; a library's scratch space is not traffic."""
    found = [array for array in instruction.arrays if array.space == 0]
    if instruction.opcode == "custom-call":
        found = [array for array in found if array.dtype != "s8" or math.prod(array.dims) < 2**20]
    return sum(array.bytes for array in found)
