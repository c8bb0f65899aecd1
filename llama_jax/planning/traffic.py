"""Bytes that a compiled program reads from and writes to a device's main memory, by formula.

Every instruction outside a fusion reads its operands and writes its result once, as often as the
loops around it run. What only renames or copies nothing is free. Slices count what they touch:
dynamic-slice its result, dynamic-update-slice twice its update; inside a fusion the same holds for
an operand that is only sliced, or only updated in place. Buffers on the chip (a TPU's VMEM) are
free. Caches are not modelled, so this is an upper bound where operands stay in them.
"""

from llama_jax.planning.hlo import Computation, Instruction, Module

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "iota", "domain",
}  # fmt: skip
_SLICES = {"dynamic-slice", "gather", "slice"}


def main_memory_bytes(module: Module) -> int:
    """Returns the bytes moved in one call of the program, on one device."""
    fused = _fused(module)
    total = 0
    for name, times in module.runs.items():
        if name not in fused:
            instructions = module.computations[name]
            total += times * sum(_bytes(i, instructions, module) for i in instructions.values())
    return total


def _fused(module: Module) -> set[str]:
    """Returns the computations inside fusions; their instructions touch no memory themselves."""
    return {
        called
        for instructions in module.computations.values()
        for i in instructions.values()
        if i.opcode == "fusion" or i.opcode.startswith("async")
        for called in i.called("calls")
    }


def _bytes(instruction: Instruction, around: Computation, module: Module) -> int:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode == "fusion":
        (called,) = instruction.called("calls")
        return _fusion(instruction, around, module.computations[called])
    if opcode in _SLICES:
        return 2 * _main(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _main(around[instruction.operands[1]])
    return sum(_main(around[name]) for name in instruction.operands) + _main(instruction)


def _fusion(instruction: Instruction, around: Computation, inside: Computation) -> int:
    total = 0
    parameters = [i for i in inside.values() if i.opcode == "parameter"]
    updated = {
        i.operands[0] for i in inside.values() if i.opcode == "dynamic-update-slice"
    }
    updates = sum(
        inside[i.operands[1]].bytes for i in inside.values() if i.opcode == "dynamic-update-slice"
    )
    for parameter in parameters:
        operand = around[instruction.operands[int(parameter.literal)]]
        users = [i for i in inside.values() if parameter.name in i.operands]
        if _source(parameter.name, inside) & updated:
            continue
        if users and all(i.opcode in _SLICES and i.operands[0] == parameter.name for i in users):
            total += min(_main(operand), sum(i.bytes for i in users))
        else:
            total += _main(operand)
    # A result updated in place is written where it changes, and read there too.
    written = 2 * updates if updated else _main(instruction)
    return total + min(written, 2 * _main(instruction))


def _source(name: str, inside: Computation) -> set[str]:
    """Returns the names under which an operand goes on unchanged: through bitcasts and copies."""
    names = {name}
    for instruction in inside.values():  # In order: users come after what they use.
        if instruction.opcode in ("bitcast", "copy", "convert") and names & set(
            instruction.operands
        ):
            names.add(instruction.name)
    return names


def _main(instruction: Instruction) -> int:
    """Returns the size of what lies in main memory of a result."""
    return sum(array.bytes for array in instruction.arrays if array.space == 0)
