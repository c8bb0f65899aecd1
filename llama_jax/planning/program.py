"""The program that is weighed: the real train step, or the decode step, for a topology."""

import dataclasses
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding

from llama_jax.config.model import Dtype
from llama_jax.config.train import TrainConfig
from llama_jax.inference.generate import Generator
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.planning import memory
from llama_jax.planning.topology import Topology
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.training import step
from llama_jax.training.parallelism import resolve
from llama_jax.training.state import abstract_state

# There is no device to time kernels on. Triton's products, chosen without timing, split sums into
# float32 parts of many times the result's size; cuBLAS is what large bfloat16 products use.
_GPU_OPTIONS: dict[str, str | bool] = {
    "xla_gpu_autotune_level": "0",
    "xla_gpu_enable_triton_gemm": False,
}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program before its compilation, and what it holds between two calls."""

    program: jax.stages.Lowered
    layout: Layout
    parameters: Any  # Trees of shapes with shardings.
    moments: Any  # Of the optimizer; the cache when decoding.
    trained: Any  # Those of the parameters that have gradients.


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler said of a program; the text is empty where it said "out of memory"."""

    lowered: Lowered
    text: str
    peak_bytes: int  # Per device; of the compiler's message where it ran out of memory.
    argument_bytes: int
    out_of_memory: str  # The compiler's own words, or "".
    lower_seconds: float
    compile_seconds: float


def lower(config: TrainConfig, devices: Sequence[Any]) -> Lowered:
    """Returns the train step of `python -m llama_jax.train` for these devices.

    Raises:
        ValueError: The settings do not divide over the devices.
    """
    layout = Layout(make_mesh(config.mesh, devices), config.sharding)
    config = resolve(config, layout)
    graph, _ = llama.abstract(config.model, config.compute, layout, config.lora)
    optimizer = optimizers.adamw(config.optim, config.steps)
    state = abstract_state(config, optimizer, layout)
    program = step.lower_step(config, graph, optimizer, state, layout)
    return Lowered(program, layout, state.all_params, state.opt_state, state.params)


def lower_decode(config: TrainConfig, devices: Sequence[Any]) -> Lowered:
    """Returns the loop that decodes one token per turn, for one row per device that splits rows.

    The parameters are in the compute dtype, as `load` gives them (bfloat16 for float16, which it
    does not); the cache holds `data.sequence_length` tokens, split over rows and key heads.
    """
    layout = Layout(make_mesh(config.mesh, devices), config.sharding)
    dtype: Dtype = "float32" if config.compute.dtype == "float32" else "bfloat16"
    compute = dataclasses.replace(config.compute, dtype=dtype, param_dtype=dtype)
    _, params = llama.abstract(config.model, compute)
    params = place.with_shardings(params, place.shardings(layout, params))
    program, cache = Generator(config.model, compute, params, [2]).lower_decode(
        layout.ways("batch"), config.data.sequence_length, partial(_decoding_sharding, layout)
    )
    return Lowered(program, layout, params, cache, {})


def compile(
    config: TrainConfig, topology: Topology, devices: Sequence[Any], decode: bool = False
) -> Compiled:
    """Returns what the compiler makes of the program; running out of memory is an answer too."""
    start = time.monotonic()
    lowered = (lower_decode if decode else lower)(config, devices)
    middle = time.monotonic()
    options = _GPU_OPTIONS if topology.platform == "gpu" else None
    try:
        compiled = lowered.program.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        end = time.monotonic()
        words = _out_of_memory(str(error))
        peak, arguments = _largest(words), memory.local_bytes((lowered.parameters, lowered.moments))
        return Compiled(lowered, "", peak, arguments, words, middle - start, end - middle)
    end = time.monotonic()
    found, text = compiled.memory_analysis(), compiled.as_text()
    assert found is not None and text is not None
    return Compiled(
        lowered,
        text,
        _peak(found, topology),
        found.argument_size_in_bytes,
        "",
        middle - start,
        end - middle,
    )


def _peak(found: Any, topology: Topology) -> int:
    """Returns the most that is ever in use on one device, arguments included.

    TPU: `temp_size_in_bytes` adds buffers that never exist together, the peak does not. The peak of
    XLA for CPUs leaves temporaries out.
    """
    total = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
    return total if topology.platform == "cpu" else found.peak_memory_in_bytes


def _out_of_memory(message: str) -> str:
    sentence = message[message.index("RESOURCE_EXHAUSTED") :].splitlines()[0]
    return re.sub(r"\s+", " ", sentence.partition(": ")[2]).strip()


def _largest(message: str) -> int:
    """Returns the largest size that the compiler's message names: what the program would need."""
    sizes = re.findall(r"([\d.]+)([KMGT])\b", message)
    return int(max((float(n) * _UNITS[unit] for n, unit in sizes), default=0))


def _decoding_sharding(layout: Layout, name: str, leaf: Any) -> NamedSharding:
    """Returns where an array of the decoding state lives: rows and key heads are split."""
    if name.endswith("LBSKH"):
        return layout.sharding(None, "batch", None, "kv_heads", None)
    return layout.sharding(*("batch", *[None] * leaf.ndim)[: leaf.ndim])
