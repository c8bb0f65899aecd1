"""Peak memory of chunked against dense cross-entropy and attention, forward and backward.

    python benchmarks/memory.py

Compiles for the CPU from shapes alone and reads the compiled programs' memory analysis: nothing
is computed, so 32K tokens need no memory here. Writes benchmarks/results/memory_cpu.md.

B batch, T tokens, D embed, N query heads, K key heads, H head size, V vocab.
"""

import datetime
import functools
import itertools
import os
import pathlib
import platform
import subprocess

import jax
import jax.numpy as jnp

from llama_jax.config.model import ComputeConfig
from llama_jax.config.train import LossConfig
from llama_jax.kernels.attention.api import attention
from llama_jax.kernels.attention.mask import Mask
from llama_jax.losses.cross_entropy import chunked_cross_entropy

LENGTHS = (8192, 32768)
D, V = 4096, 32000
N, K, H = 8, 8, 128
RESULT = pathlib.Path(__file__).parent / "results" / "memory_cpu.md"
MIB = 2**20


def dense_cross_entropy(x_BTD, head_DV, target_BT, weight_BT):
    logit_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, head_DV, preferred_element_type=jnp.float32)
    hit_BT = jnp.take_along_axis(logit_BTV, target_BT[..., None], axis=-1)[..., 0]
    return (weight_BT * (jax.nn.logsumexp(logit_BTV, axis=-1) - hit_BT)).sum()


def chunked_cross_entropy_sum(x_BTD, head_DV, target_BT, weight_BT):
    return chunked_cross_entropy(
        x_BTD, head_DV, target_BT, weight_BT, chunk=LossConfig().chunk, z_loss=0.0
    )[0]


def cross_entropy_memory(loss, T: int, dtype) -> tuple[int, int]:
    shape = jax.ShapeDtypeStruct
    x, head = shape((1, T, D), dtype), shape((D, V), dtype)
    target, weight = shape((1, T), jnp.int32), shape((1, T), jnp.float32)
    return memory(jax.value_and_grad(loss, (0, 1)), x, head, target, weight)


def attention_memory(impl: str, T: int, dtype) -> tuple[int, int]:
    q = jax.ShapeDtypeStruct((1, T, N, H), dtype)
    k = jax.ShapeDtypeStruct((1, T, K, H), dtype)

    def forward_and_backward(q_BTNH, k_BSKH, v_BSKH, grad_BTNH):
        chunk = ComputeConfig().attention_chunk
        fn = functools.partial(attention, mask=Mask(), impl=impl, chunk=chunk)
        out_BTNH, back = jax.vjp(fn, q_BTNH, k_BSKH, v_BSKH)
        return out_BTNH, back(grad_BTNH)

    return memory(forward_and_backward, q, k, k, q)


def memory(program, *shapes) -> tuple[int, int]:
    """Returns (temporaries, temporaries + arguments + results) in bytes."""
    found = jax.jit(program).lower(*shapes).compile().memory_analysis()
    temporary = found.temp_size_in_bytes
    return temporary, temporary + found.argument_size_in_bytes + found.output_size_in_bytes


def row(name: str, T: int, dtype, plain: tuple[int, int], ours: tuple[int, int]) -> str:
    cells = [name, f"{T:,}", jnp.dtype(dtype).name]
    for a, b in zip(plain, ours, strict=True):
        cells += [f"{a / MIB:,.0f}", f"{b / MIB:,.0f}", f"1/{a / b:.1f}"]
    line = "| " + " | ".join(cells) + " |"
    print(line, flush=True)
    return line


def measure() -> list[str]:
    lines = []
    for T, dtype in itertools.product(LENGTHS, (jnp.float32, jnp.bfloat16)):
        dense = cross_entropy_memory(dense_cross_entropy, T, dtype)
        ours = cross_entropy_memory(chunked_cross_entropy_sum, T, dtype)
        lines.append(row("cross-entropy", T, dtype, dense, ours))
    for T, dtype in itertools.product(LENGTHS, (jnp.float32, jnp.bfloat16)):
        plain = attention_memory("reference", T, dtype)
        lines.append(row("attention", T, dtype, plain, attention_memory("chunked", T, dtype)))
    return lines


def provenance() -> list[str]:
    here = pathlib.Path(__file__).parent
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return [
        f"- Date: {datetime.date.today()}",
        f"- Hardware: {os.cpu_count()} CPU cores, {platform.machine()}; compiled, not run",
        f"- Versions: jax {jax.__version__}, Python {platform.python_version()}",
        f"- Commit: {git.stdout.strip() if git.returncode == 0 else 'none yet'}",
        "- Command: `python benchmarks/memory.py`",
    ]


def page(lines: list[str]) -> str:
    chunks = f"{LossConfig().chunk} tokens; attention tile {ComputeConfig().attention_chunk}"
    return "\n".join(
        [
            "# Memory of one forward and backward pass, chunked against plain",
            "",
            *provenance(),
            f"- Cross-entropy: B=1, D={D}, V={V}, chunk {chunks}",
            f"- Attention: B=1, N={N}, K={K}, H={H}, causal; plain is `reference`",
            "",
            "MiB. *temp* is what the compiled program allocates beside its arguments and results;",
            "*all* adds those (inputs, outputs and gradients), which no variant can avoid.",
            "",
            "| what | tokens | dtype | plain temp | chunked temp | ratio "
            "| plain all | chunked all | ratio |",
            "|---|---:|---|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
        ]
    )


def main():
    jax.config.update("jax_platforms", "cpu")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(page(measure()))
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
