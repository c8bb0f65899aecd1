# ruff: noqa: E402 (it runs without being installed)
"""Attention on one GPU: checked against the equation, then timed beside what others ship.

    python benchmarks/gpu_attention.py --selfcheck     PASS or FAIL for every shared case
    python benchmarks/gpu_attention.py                 the table, to benchmarks/results/

With --impl=triton both are of the Triton kernels, for GPUs that are not Hoppers too. Of the Hopper
kernels both backward passes are checked and timed: "ours" is the deterministic one, and what it
costs is one over the last ratio of "ours, fused backward".

Needs jax and numpy; tokamax and torch are timed where they are installed. Forward, and forward with
backward, of bfloat16 heads of 128 on random data: causal rows of 2K to 64K tokens (32 heads; 64
heads that share 8), packed documents of 4,096 tokens on average, a window of 4,096. Implementations
take turns; a number is the median of the turns, each of several calls queued behind each other.
TFLOP/s count the pairs that are seen (4 per pair and head size forward, 14 with backward), and the
share is that of the product of two 8192 x 8192 matrices on the same card, timed in the same run.
"""

import argparse
import dataclasses
import datetime
import functools
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory too.
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax
import jax.numpy as jnp
import numpy as np
from attention_cases import CASES, TOLERANCE, inputs, longer, value_and_gradients

from llama_jax.kernels.attention import api
from llama_jax.kernels.attention.mask import Mask

RESULT = ROOT / "benchmarks" / "results" / "gpu_attention.md"
H, MEAN_DOCUMENT = 128, 4096
CALLS, TURNS, MATRIX = 5, 7, 8192
LENGTHS = 2048, 4096, 8192, 16384, 32768, 65536
CLOSE = 3e-2  # Of the largest entry: two roundings to bfloat16, and sums of other orders.


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table; documents only mean something to those who can pack."""

    name: str
    S: int
    N: int = 32
    K: int = 32
    packed: bool = False
    window: int | None = None

    def lengths(self) -> list[int]:
        """Returns the lengths of the documents of the row."""
        if not self.packed:
            return [self.S]
        rng = np.random.default_rng(self.S)
        ends = np.cumsum(
            rng.exponential(MEAN_DOCUMENT, 8 * self.S // MEAN_DOCUMENT).astype(int) + 1
        )
        ends = [0, *ends[ends < self.S], self.S]
        return [int(n) for n in np.diff(ends)]

    def pairs(self) -> int:
        """Returns how many pairs of a query and a key are seen."""
        most = self.window or self.S
        return sum(
            n * (n + 1) // 2 - max(n - most, 0) * (n - most + 1) // 2 for n in self.lengths()
        )

    def mask(self) -> Mask:
        """Returns the mask."""
        numbers = np.arange(1, len(self.lengths()) + 1, dtype=np.int32)
        segment_BT = jnp.asarray(np.repeat(numbers, self.lengths())[None])
        return Mask.packed(segment_BT, self.window) if self.packed else Mask(window=self.window)


def cases(lengths: list[int]) -> Iterator[Case]:
    """Yields the rows of the table."""
    for S in lengths:
        yield Case(f"causal {S:,}", S)
    for S in lengths:
        yield Case(f"causal {S:,}, 64 heads share 8", S, N=64, K=8)
    for S in (S for S in lengths if S >= 32768):
        yield Case(f"packed {S:,}", S, packed=True)
        yield Case(f"window 4,096 of {S:,}", S, window=4096)


def arrays(case: Case) -> tuple[jax.Array, ...]:
    """Returns q, k, v and the gradient of the output."""
    keys = jax.random.split(jax.random.key(case.S), 4)
    heads = case.N, case.K, case.K, case.N
    return tuple(
        jax.random.normal(key, (1, case.S, n, H), jnp.bfloat16)
        for key, n in zip(keys, heads, strict=True)
    )


def with_backward(forward: Callable) -> tuple[Callable, Callable]:
    """Returns the compiled forward pass, and the compiled pair of both passes."""

    def both(q, k, v, grad):
        out, back = jax.vjp(forward, q, k, v)
        return out, *back(grad)

    return jax.jit(lambda q, k, v, grad: forward(q, k, v)), jax.jit(both)


def ours(case: Case, impl: str) -> tuple[Callable, Callable]:
    """Returns (forward, both) of this project; the mask is prepared once, as in a model."""
    q, k, *_ = arrays(case)
    mask = jax.jit(lambda mask: api.prepare(mask, impl, api.shape_of(q, k)))(case.mask())
    return with_backward(functools.partial(api.attention, mask=mask, impl=impl))


def cudnn(case: Case) -> tuple[Callable, Callable]:
    """Returns those of cuDNN, which has no public way to pack: its packed rows are causal rows."""
    window = None if case.window is None else (case.window - 1, 0)
    return with_backward(
        functools.partial(
            jax.nn.dot_product_attention,
            is_causal=True,
            local_window_size=window,
            implementation="cudnn",
        )
    )


def jax_pallas(case: Case) -> tuple[Callable, None]:
    """Returns the forward pass of JAX's own example, which has no causal backward pass."""
    from jax.experimental.pallas.ops.gpu import attention_mgpu

    if case.window:
        raise NotImplementedError("no window")
    config = attention_mgpu.TuningConfig(64, 128, 2, causal=True)
    scale = jnp.bfloat16(H**-0.5)
    return jax.jit(lambda q, k, v, grad: attention_mgpu.attention(q * scale, k, v, config)), None


def tokamax(case: Case) -> tuple[Callable, Callable]:
    """Returns those of tokamax."""
    import tokamax

    window = None if case.window is None else (case.window - 1, 0)
    return with_backward(
        functools.partial(
            tokamax.dot_product_attention,
            is_causal=True,
            local_window_size=window,
            implementation="mosaic",
        )
    )


def torch_sdpa(backend: str, case: Case) -> tuple[Callable, Callable]:
    """Returns those of PyTorch; `backend` is FLASH_ATTENTION or CUDNN_ATTENTION."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if case.window:
        raise NotImplementedError("no window")

    def attend(tensors):
        q, k, v = (x.transpose(1, 2) for x in tensors[:3])
        with sdpa_kernel(getattr(SDPBackend, backend)):
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=case.N != case.K
            )
        return out.transpose(1, 2)

    def forward(*inputs):
        with torch.no_grad():
            return attend(inputs)

    def both(*inputs):
        leaves = [x.detach().requires_grad_() for x in inputs[:3]]
        out = attend(leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, inputs[3])

    return forward, both


def forms(impl: str) -> dict[str, str]:
    """Returns our implementations to check and to time, by what they are called in the table."""
    fused = {"ours, fused backward": "gpu_fused"} if impl == "gpu" else {}
    return {"ours": impl, **fused}


IMPLEMENTATIONS: dict[str, Callable] = {
    "cuDNN": cudnn,
    "JAX Pallas": jax_pallas,
    "tokamax": tokamax,
    "torch flash": functools.partial(torch_sdpa, "FLASH_ATTENTION"),
    "torch cuDNN": functools.partial(torch_sdpa, "CUDNN_ATTENTION"),
}


def inputs_of(name: str, case: Case) -> tuple:
    """Returns the arrays, as tensors for torch."""
    if not name.startswith("torch"):
        return arrays(case)
    import torch

    return tuple(torch.from_dlpack(x) for x in arrays(case))


def wait(result: Any) -> None:
    """Waits until the last of the queued calls is done."""
    if "torch" in sys.modules and not isinstance(jax.tree.leaves(result)[0], jax.Array):
        sys.modules["torch"].cuda.synchronize()
    else:
        jax.block_until_ready(result)


def seconds(function: Callable, inputs: tuple) -> float:
    """Returns the time of one of several calls that are queued behind each other."""
    start = time.perf_counter()
    result = None
    for _ in range(CALLS):
        result = function(*inputs)
    wait(result)
    return (time.perf_counter() - start) / CALLS


def numbers(result: Any) -> list[np.ndarray]:
    """Returns the arrays of a result in float32."""
    leaves = jax.tree.leaves(result)
    return [np.asarray(x.float().cpu() if hasattr(x, "cpu") else x, np.float32) for x in leaves]


def agree(got: Any, want: Any) -> bool:
    """Returns whether two results differ by rounding only."""
    pairs = zip(numbers(got), numbers(want), strict=True)
    return all(np.abs(a - b).max() <= CLOSE * max(np.abs(b).max(), 1.0) for a, b in pairs)


def measure(case: Case, impl: str) -> list[str]:
    """Returns lines of the table: one implementation each, forward and with backward."""
    functions = {name: ours(case, form) for name, form in forms(impl).items()}
    refused: dict[str, list[str]] = {}
    for name, make in IMPLEMENTATIONS.items():
        try:
            made = make(case)
            inputs = inputs_of(name, case)
            for function in made:
                if function is not None:
                    wait(function(*inputs))
            functions[name] = made
        except Exception as error:  # Whatever another library says: it is reported, not fatal.
            refused[name] = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    inputs = {name: inputs_of(name, case) for name in functions}
    mine = [function(*inputs["ours"]) for function in functions["ours"]]
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(TURNS):
        for name, pair in functions.items():
            for which, function in enumerate(pair):
                if function is not None:
                    found = seconds(function, inputs[name])
                    times.setdefault((name, which), []).append(found)
    lines = []
    for name, pair in functions.items():
        cells = [case.name if name == "ours" else "", name]
        for which, function in enumerate(pair):
            if function is None:
                cells += ["", "", ""]
                continue
            median = statistics.median(times[name, which])
            rate = (4, 14)[which] * case.pairs() * case.N * H / median / 1e12
            ratio = median / statistics.median(times["ours", which])
            cells += [f"{median * 1e3:.3f}", f"{rate:.0f}", f"{ratio:.2f}"]
        packs = name.startswith("ours") or not case.packed
        same = all(
            agree(function(*inputs[name]), mine[which])
            for which, function in enumerate(pair)
            if function is not None
        )
        cells.append(("same" if same else "DIFFERS") if packs else "causal only")
        lines.append("| " + " | ".join(cells) + " |")
    for name, why in refused.items():
        lines.append(f"| | {name} | not run: {why[0][:60]} | | | | | | |")
    return lines


def matrix_rate() -> float:
    """Returns the FLOP/s of a product of two large matrices."""
    x = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    wait(multiply(x, x))
    return 2 * MATRIX**3 / min(seconds(multiply, (x, x)) for _ in range(TURNS))


def selfcheck(impl: str) -> bool:
    """Prints PASS or FAIL for every shared case, also six times as long; True if all passed."""
    passed = [
        check(f"{name} x {times}, {form}", longer(case, times), dtype, form)
        for form in forms(impl).values()
        for name, case in CASES.items()
        for times in (1, 6)
        for dtype in (jnp.bfloat16, jnp.float16, *([jnp.float32] if impl == "triton" else []))
    ]
    print(f"{sum(passed)} of {len(passed)} passed on {jax.devices()[0].device_kind}")
    return all(passed)


def check(name: str, case: Any, dtype: Any, impl: str) -> bool:
    """Returns whether values and gradients are those of the equation in float32."""
    given = inputs(case, dtype)
    exact = (x.astype(jnp.float32) for x in given)
    with jax.default_matmul_precision("highest"):
        want = numbers(value_and_gradients("reference", *exact, case.mask))
    try:
        pairs = zip(numbers(value_and_gradients(impl, *given, case.mask)), want, strict=True)
        worst = max(np.abs(a - b).max() / max(np.abs(b).max(), 1.0) for a, b in pairs)
        close = TOLERANCE[jnp.float32 if dtype == jnp.float32 else jnp.bfloat16]
        passed, said = bool(worst <= close), f"{worst:.1e}"  # nan fails.
    except Exception as error:
        passed, said = False, str(error).strip().splitlines()[0][:80]
    print(f"{'PASS' if passed else 'FAIL'} {name} {jnp.dtype(dtype).name}: {said}", flush=True)
    return passed


def about() -> list[str]:
    """Returns what the numbers depend on."""
    run = functools.partial(subprocess.run, capture_output=True, text=True)
    commit = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).stdout[:12] or "unknown"
    packages = ("jax", "jaxlib", "tokamax", "torch")
    have = ", ".join(f"{name} {_version(name)}" for name in packages)
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        card = run(query).stdout.strip() or jax.devices()[0].device_kind
    except OSError:
        card = jax.devices()[0].device_kind
    return [
        "# Attention on one GPU",
        "",
        f"- {datetime.date.today()}, commit {commit}, `python benchmarks/gpu_attention.py`",
        f"- {card}; Python {platform.python_version()}, {have}",
        f"- bfloat16, head size {H}; median of {TURNS} turns of {CALLS} calls",
        "",
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def main() -> int:
    """Runs the check or the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--selfcheck", action="store_true")
    parser.add_argument("--impl", default="gpu", choices=api.IMPLEMENTATIONS, help="ours")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--output", type=pathlib.Path, default=RESULT)
    options = parser.parse_args()
    if options.impl in ("gpu", "gpu_fused", "triton") and jax.default_backend() != "gpu":
        ampere, hopper = "an Ampere GPU (A100) or newer", "a Hopper GPU (H100, H200)"
        needs = ampere if options.impl == "triton" else hopper
        print(f"error: no GPU here; the kernel needs {needs}.", file=sys.stderr)
        return 78
    if options.selfcheck:
        return 0 if selfcheck(options.impl) else 1
    rate = matrix_rate()
    lines = [
        *about(),
        f"A product of two {MATRIX} x {MATRIX} matrices: {rate / 1e12:.0f} TFLOP/s.",
        "",
        "| case | | forward, ms | TFLOP/s | / ours | both, ms | TFLOP/s | / ours | result |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for case in cases(options.lengths):
        lines += (found := measure(case, options.impl))
        print("\n".join(found), flush=True)
        options.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
