"""A compiled train step -> the kernels of one layer, forward and backward, and what each is for.

A kernel is an instruction of the body of a loop over layers that moves bytes. What it is for is
read off the files of this package that its instructions come from; the compiled text names them.
"""

import dataclasses
import math
import re

from llama_jax.planning import hlo, traffic
from llama_jax.planning.hlo import Computation, Instruction, Module
from llama_jax.telemetry.hardware import Chip

PURPOSES = {  # File: what its instructions outside matrix products are for.
    "norm.py": "RMSNorm",
    "attention.py": "RoPE",  # The model's; what is traced for a custom gradient names its caller.
    "rope.py": "RoPE",
    "mlp.py": "SwiGLU",
    "flash.py": "zeros for padding",
    "product.py": "rounding of products",
}
# Products of 2 T S N H operations (half of them where it is causal) for each kernel.
ATTENTION = {
    "attention_forward": 2,
    "attention_backward_dq": 3,
    "attention_backward_dkv": 4,
    "attention_backward": 5,
    "attention_backward_fused": 5,
}
NOT_ELEMENTWISE = ("product", "attention")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a layer."""

    name: str
    part: str  # "forward" or "backward", which recomputes too.
    purpose: str  # "product", "attention", or of what it is a step.
    bytes: int  # Read and written.
    flops: float  # Of matrix products; the others' are not counted.
    results: str  # The shapes it writes.

    def seconds(self, chip: Chip, efficiency: float = 1.0) -> float:
        """Returns the least time on a chip whose products run at this share of its peak."""
        assert chip.memory_bandwidth is not None
        by_memory = self.bytes / chip.memory_bandwidth
        return max(by_memory, self.flops / (efficiency * chip.peak_flops))


def kernels(text: str, layers: int) -> list[Kernel]:
    """Returns the kernels of one layer, from a step's compiled text."""
    module, files = hlo.parse(text), _files(text)
    found = []
    for name in _bodies(module, layers):
        body = module.computations[name]
        backward = any("transpose(jvp" in i.op_name for i in body.values())
        for instruction in body.values():
            size = traffic.moved(module, body, instruction)
            if size:
                part = "backward" if backward else "forward"
                found.append(_kernel(module, body, instruction, files, part, size))
    return found


def elementwise(found: list[Kernel]) -> list[Kernel]:
    """Returns those that are neither matrix products nor attention."""
    return [kernel for kernel in found if kernel.purpose not in NOT_ELEMENTWISE]


def _bodies(module: Module, layers: int) -> list[str]:
    """Returns the bodies of the loops over layers: those in which attention runs."""
    return [
        name
        for name, times in module.runs.items()
        if times == layers
        and name not in traffic.inside_others(module)
        and any(_attention(i) for i in module.computations[name].values())
    ]


def _kernel(
    module: Module,
    body: Computation,
    instruction: Instruction,
    files: dict[str, str],
    part: str,
    size: int,
) -> Kernel:
    inside = _inside(module, instruction)
    flops = sum(_product_flops(*found) for found in inside if not _is_rope(found[1], files))
    purpose = "product" if flops else _purpose(instruction, [i for _, i in inside], files)
    if products := _attention(instruction):
        *_, N, T, H = _heads(instruction, body)
        purpose, flops = "attention", products * T * T * N * H  # Causal: half of 2 T T N H.
    return Kernel(instruction.name, part, purpose, size, flops, instruction.shape)


def _inside(module: Module, instruction: Instruction) -> list[tuple[Computation, Instruction]]:
    """Returns the instruction, or those that are fused in it, each with what is around it."""
    if instruction.opcode != "fusion":
        return [(_around(module, instruction), instruction)]
    return [
        found
        for called in instruction.called("calls")
        for i in module.computations[called].values()
        for found in _inside(module, i)
    ]


def _around(module: Module, instruction: Instruction) -> Computation:
    for computation in module.computations.values():
        if computation.get(instruction.name) is instruction:
            return computation
    raise AssertionError(instruction.name)


def _product_flops(around: Computation, instruction: Instruction) -> float:
    """Returns 2 M N K of a matrix product [M, K] x [K, N], and 0 for anything else."""
    library = "__cublas" in instruction.attributes
    if not library and instruction.opcode not in ("dot", "convolution"):
        return 0.0
    sides = [around[name] for name in instruction.operands[:2]]
    sizes = [math.prod(side.arrays[0].dims) for side in (*sides, instruction)]
    return 2 * math.sqrt(math.prod(sizes))  # M K, K N and M N.


def _attention(instruction: Instruction) -> int:
    """Returns how many products an attention kernel makes for each tile; 0 if it is none."""
    if instruction.opcode != "custom-call":
        return 0
    names = [name for name in ATTENTION if re.search(rf"{name}\b(?!_)", instruction.op_name)]
    return ATTENTION[names[0]] if names else 0


def _heads(instruction: Instruction, body: Computation) -> tuple[int, ...]:
    """Returns (B, N, T, H) of an attention kernel, from its first result; B is 1."""
    dims = instruction.arrays[0].dims
    log_sums = [a.dims for a in instruction.arrays if a.dtype == "f32"]
    operands = [body[name] for name in instruction.operands if name in body]
    log_sums += [a.dims for o in operands for a in o.arrays if a.dtype == "f32" and len(a.dims) > 2]
    heads = next(size[1] for size in log_sums)
    B, first, second, H = dims
    return (B, first, second, H) if first == heads else (B, second, first, H)


def _purpose(instruction: Instruction, inside: list[Instruction], files: dict[str, str]) -> str:
    """Returns what a kernel without a matrix product is for."""
    if "dynamic_update_index_in_dim" in instruction.op_name:
        return "writing to the stack of layers"
    if "dynamic_index_in_dim" in instruction.op_name:
        return "reading from the stack of layers"
    if instruction.opcode.startswith("copy"):
        on_chip = any(array.space == 1 for array in instruction.arrays)
        return "moves to and from the chip's own memory" if on_chip else "copies"
    names = {PURPOSES.get(_file(i, files), "") for i in inside}
    for name in PURPOSES.values():
        if name in names:
            return name
    return "residual and sums of gradients"


def _is_rope(instruction: Instruction, files: dict[str, str]) -> bool:
    """True for what turns heads; on TPUs that takes a product, which is none of the model's."""
    return PURPOSES.get(_file(instruction, files)) == "RoPE"


def _file(instruction: Instruction, files: dict[str, str]) -> str:
    frame = re.search(r"stack_frame_id=(\d+)", instruction.attributes)
    return files.get(frame[1], "") if frame else ""


def _files(text: str) -> dict[str, str]:
    """Returns the name of the file of each stack frame, by the text's tables."""
    names = dict(re.findall(r'^(\d+) "(?:[^"]*/)?([^"/]*)"$', _table(text, "FileNames"), re.M))
    locations = re.findall(r"^(\d+) \{file_name_id=(\d+) ", _table(text, "FileLocations"), re.M)
    of_location = {key: names.get(name, "") for key, name in locations}
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", _table(text, "StackFrames"), re.M)
    return {key: of_location.get(location, "") for key, location in frames}


def _table(text: str, title: str) -> str:
    found = re.search(rf"^{title}\n(.*?)\n\n", text, re.M | re.S)
    return found[1] if found else ""
