# ruff: noqa: E402 (it runs without being installed)
"""One training step on one GPU, beside transformers + torch on the same card.

    python benchmarks/gpu_train_step.py

Models: layers of Llama-2-7B's width, and TinyLlama-1.1B whole, with rows of 4,096 and of 32,768
random tokens; bfloat16 products, float32 parameters and moments. Ours is the compiled step of
`llama_jax.train` with attention "gpu" and remat "attention"; theirs has scaled-dot-product
attention, gradient checkpointing, fused AdamW and torch.compile. Each side runs in a process of
its own, in the order ours, theirs, theirs, ours. Needs jax, flax and optax, and for the other side
torch and transformers. Writes benchmarks/results/gpu_train_step.md.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.train import LossConfig, TrainConfig

RESULT = ROOT / "benchmarks" / "results" / "gpu_train_step.md"
WARM, STEPS, MATRIX = 3, 10, 8192
LLAMA_2_7B = ModelConfig(
    layers=32, embed=4096, mlp=11008, heads=32, kv_heads=32, head_dim=128, vocab=32000, context=4096
)
MODELS = {
    "7B width, 8 layers": dataclasses.replace(LLAMA_2_7B, layers=8),
    "1.1B": dataclasses.replace(
        LLAMA_2_7B, layers=22, embed=2048, mlp=5632, kv_heads=4, head_dim=64
    ),
    "tiny": dataclasses.replace(
        LLAMA_2_7B, layers=2, embed=64, mlp=128, heads=4, kv_heads=2, head_dim=16, vocab=256
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its rows."""

    model: str
    S: int
    rows: int

    def config(self, attention: str) -> TrainConfig:
        """Returns the settings of our side."""
        model = dataclasses.replace(MODELS[self.model], context=self.S)
        source = {"a": SourceConfig(path="unused")}
        return TrainConfig(
            workdir="unused",
            model=model,
            compute=ComputeConfig(attention=attention, remat="attention"),
            loss=LossConfig(chunk=1024),
            data=DataConfig(
                tokenizer="unused", mixture=source, sequence_length=self.S, batch_size=self.rows
            ),
        )


CASES = [
    Case("7B width, 8 layers", 4096, 4),
    Case("7B width, 8 layers", 32768, 1),
    Case("1.1B", 4096, 8),
    Case("1.1B", 32768, 1),
]


def tokens_of(case: Case) -> np.ndarray:
    """Returns random ids, i32 [rows, S + 1]."""
    vocab = MODELS[case.model].vocab
    return np.random.default_rng(0).integers(0, vocab, (case.rows, case.S + 1)).astype(np.int32)


def ours(case: Case, attention: str) -> dict:
    """Returns what our side measured."""
    import jax
    import jax.numpy as jnp

    from llama_jax.data.batch import Batch
    from llama_jax.model import llama
    from llama_jax.optim import optimizers
    from llama_jax.sharding.layout import Layout
    from llama_jax.sharding.mesh import make_mesh
    from llama_jax.training import state as states
    from llama_jax.training.parallelism import resolve
    from llama_jax.training.step import compile_step

    config = case.config(attention)
    layout = Layout(make_mesh(config.mesh, jax.devices()[:1]), config.sharding)
    config = resolve(config, layout)
    optimizer = optimizers.adamw(config.optim, config.steps)
    graph, _ = llama.abstract(config.model, config.compute, layout)
    abstract = states.abstract_state(config, optimizer, layout)
    state = states.create_state(config, optimizer, abstract)
    start = time.perf_counter()
    step = compile_step(config, graph, optimizer, state, layout)
    compile_seconds = time.perf_counter() - start
    tokens, ones = tokens_of(case), np.ones((case.rows, case.S), np.int32)
    position = np.broadcast_to(np.arange(case.S, dtype=np.int32), ones.shape)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], position, ones, ones.astype(np.float32))
    batch = jax.device_put(batch, layout.sharding("batch", "sequence"))
    seconds, losses = [], []
    for _ in range(WARM + STEPS):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        losses.append(float(jax.block_until_ready(metrics["loss"])))
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    x = jnp.ones((MATRIX, MATRIX), jnp.bfloat16) * 0.37
    return {
        "seconds": seconds[WARM:],
        "losses": losses,
        "compile": compile_seconds,
        "planned": step.memory_analysis().peak_memory_in_bytes,
        "peak": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0),
        "matrix": _matrix_rate(jax.jit(jnp.matmul), x) if jax.default_backend() == "gpu" else 0,
        "card": jax.devices()[0].device_kind,
    }


def _matrix_rate(multiply, x) -> float:
    """Returns the FLOP/s of a product of two large matrices."""
    multiply(x, x).block_until_ready()
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(5):
            result = multiply(x, x)
        result.block_until_ready()
        found.append((time.perf_counter() - start) / 5)
    return 2 * MATRIX**3 / min(found)


def theirs(case: Case, attention: str) -> dict:
    """Returns what transformers + torch measured."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MODELS[case.model]
    shape = transformers.LlamaConfig(
        hidden_size=model.embed,
        intermediate_size=model.mlp,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        vocab_size=model.vocab,
        max_position_embeddings=case.S,
        attn_implementation="sdpa",
        use_cache=False,
    )
    llama = transformers.LlamaForCausalLM(shape).to(device).train()
    llama.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    compiled = torch.compile(llama) if device == "cuda" else llama
    ids = torch.from_numpy(tokens_of(case).astype(np.int64)).to(device)
    seconds, losses = [], []
    for _ in range(WARM + STEPS):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            logits = compiled(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"seconds": seconds[WARM:], "losses": losses, "peak": peak}


SIDES = {"ours": ours, "theirs": theirs}


def in_a_process(side: str, case: Case, attention: str) -> dict:
    """Returns what one side measured in a process of its own, or its error."""
    job = json.dumps([side, dataclasses.astuple(case), attention])
    command = [sys.executable, __file__, "--job", job]
    ended = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = ended.stderr.strip().splitlines() or ["nothing"]
        return {"error": said[-1][:160]}


def row(case: Case, attention: str) -> str:
    """Returns a row of the table."""
    from llama_jax.telemetry import flops

    runs: dict[str, list[dict]] = {"ours": [], "theirs": []}
    for side in ("ours", "theirs", "theirs", "ours"):
        runs[side].append(in_a_process(side, case, attention))
        print(case, side, {k: v for k, v in runs[side][-1].items() if k != "seconds"}, flush=True)
    for side, found in runs.items():
        if error := next((run["error"] for run in found if "error" in run), None):
            runs[side] = []
            print(f"{side}: {error}", file=sys.stderr)
    if not runs["ours"]:
        return f"| {case.model} | {case.S:,} | {case.rows} | failed | | | | | | |"
    count = case.rows * case.S
    speed = {
        side: count / statistics.median(s for run in found for s in run["seconds"])
        for side, found in runs.items()
        if found
    }
    model = dataclasses.replace(MODELS[case.model], context=case.S)
    causal, full = (
        speed["ours"] * flops.per_token(model, case.S, convention) / 1e12
        for convention in ("causal", "full")
    )
    first = runs["ours"][0]
    share = causal * 1e12 / first["matrix"] if first["matrix"] else float("nan")
    peak, planned = first["peak"] / 2**30, first["planned"] / 2**30
    other, ratio = "not run", ""
    if "theirs" in speed:
        other, ratio = f"{speed['theirs']:,.0f}", f"{speed['ours'] / speed['theirs']:.2f}"
    cells = [
        case.model,
        f"{case.S:,}",
        case.rows,
        f"{speed['ours']:,.0f}",
        f"{causal:.0f}, {full:.0f}",
        f"{share:.2f}",
        f"{peak:.1f} ({planned:.1f})",
        other,
        ratio,
        f"{first['compile']:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """Runs all cases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--attention", default="gpu", help="ours: config.compute.attention")
    parser.add_argument("--tiny", action="store_true", help="one tiny case, to try this program")
    parser.add_argument("--output", type=pathlib.Path, default=RESULT)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        side, case, attention = json.loads(options.job)
        print(json.dumps(SIDES[side](Case(*case), attention)))
        return 0
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout[:12] or "unknown"
    cases = [Case("tiny", 128, 2)] if options.tiny else CASES
    lines = [
        "# One training step on one GPU",
        "",
        f"- {datetime.date.today()}, commit {commit}, `python benchmarks/gpu_train_step.py`",
        f"- {platform.processor() or platform.machine()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}; attention {options.attention!r}",
        f"- medians of {2 * STEPS} steps in two processes; TFLOP/s of the model, attention counted "
        "causal and full; the share is that of a product of two 8192 x 8192 matrices",
        "",
        "| model | tokens | rows | ours, tokens/s | TFLOP/s | share | peak GiB (planned) "
        "| torch, tokens/s | ratio | compiled in, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        lines.append(row(case, options.attention))
        options.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
