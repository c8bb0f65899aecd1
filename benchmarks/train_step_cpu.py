"""Our training step against transformers + torch: the same 110M Llama, batch and threads.

    python benchmarks/train_step_cpu.py

Both begin with the same weights and see the same tokens; losses are compared before times. The
steps alternate (ours, theirs, ours, theirs, ...), so whatever else the machine does meets both.
A step is forward, backward, clipping by global norm and AdamW, in each library's fastest form that
keeps parameters and moments in float32. Writes benchmarks/results/train_step_cpu.md.
"""

import argparse
import datetime
import os
import pathlib
import platform
import statistics
import tempfile
import time

import jax
import numpy as np
import torch
import transformers

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.config.optim import OptimConfig
from llama_jax.config.train import TrainConfig
from llama_jax.converters import weights
from llama_jax.core.provenance import commit, versions
from llama_jax.data.batch import Batch
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.training import state as states
from llama_jax.training.step import compile_step

THREADS = 2
ROWS, LENGTH = 8, 512
LEARNING_RATE, DECAY, CLIP = 1e-4, 0.1, 1.0
RESULT = pathlib.Path(__file__).parent / "results" / "train_step_cpu.md"
# 12 layers of 768, as the 110M model of https://github.com/karpathy/llama2.c.
SHAPE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "vocab_size": 32000,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


class Torch:
    """transformers' Llama with scaled-dot-product attention, and torch's fused AdamW."""

    def __init__(self, model, dtype: str):
        self.model = model.train()
        self.dtype = getattr(torch, dtype)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=LEARNING_RATE,
            betas=(0.9, 0.95),
            eps=1e-5,
            weight_decay=DECAY,
            fused=True,
        )

    def step(self, tokens: np.ndarray) -> float:
        """Returns the loss of one step on [ROWS, LENGTH + 1] token ids."""
        ids = torch.from_numpy(tokens.astype(np.int64))
        mixed = torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)
        with mixed:
            logits = self.model(ids[:, :-1], use_cache=False).logits
        flat = logits.float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(flat, ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


class Ours:
    """The compiled step of llama_jax.train."""

    def __init__(self, folder: str, dtype: str, chunk: int, remat: str):
        found = weights.find(folder)
        config = TrainConfig(
            workdir="unused",
            model=found.model,
            compute=ComputeConfig(dtype=dtype, remat=remat, attention_chunk=chunk),
            data=DataConfig(
                tokenizer="unused",
                mixture={"a": SourceConfig(path="unused")},
                sequence_length=LENGTH,
                batch_size=ROWS,
            ),
            optim=OptimConfig(
                learning_rate=LEARNING_RATE,
                schedule="constant",
                weight_decay=DECAY,
                no_decay=(),  # torch decays everything in one group.
                clip=CLIP,
            ),
        )
        layout = Layout(make_mesh(config.mesh), config.sharding)
        self.rows = layout.sharding("batch", "sequence")
        optimizer = optimizers.adamw(config.optim, config.steps)
        graph, _ = llama.abstract(config.model, config.compute, layout)
        abstract = states.abstract_state(config, optimizer, layout)
        state = states.create_state(config, optimizer, abstract)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
        self.state = states.with_params(state, found.read("float32", shardings))
        start = time.perf_counter()
        self.compiled = compile_step(config, graph, optimizer, self.state, layout)
        self.compile_seconds = time.perf_counter() - start

    def step(self, tokens: np.ndarray) -> float:
        """Returns the loss of one step on [ROWS, LENGTH + 1] token ids."""
        position = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
        ones = np.ones((ROWS, LENGTH), np.int32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], position, ones, ones.astype(np.float32))
        self.state, metrics = self.compiled(self.state, jax.device_put(batch, self.rows))
        jax.block_until_ready(self.state)
        return float(metrics["loss"])


def compare(dtype: str, repeats: int, chunk: int, remat: str) -> str:
    """Returns a row of the table."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours, theirs = Ours(folder, dtype, chunk, remat), Torch(model, dtype)
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    apart = 0.0
    for repeat in range(repeats + 1):
        tokens = rng.integers(0, SHAPE["vocab_size"], (ROWS, LENGTH + 1)).astype(np.int32)
        losses = {}
        for name, side in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            losses[name] = side.step(tokens)
            if repeat:  # The first warms up caches and allocators.
                times[name].append(time.perf_counter() - start)
        apart = max(apart, abs(losses["ours"] - losses["theirs"]))
        print(f"{dtype} {repeat}: {losses}", {n: f"{t[-1]:.2f}s" for n, t in times.items() if t})
    speed = {name: ROWS * LENGTH / statistics.median(times[name]) for name in times}
    spread = {name: f"{min(t):.2f} to {max(t):.2f}" for name, t in times.items()}
    return (
        f"| {dtype} | {speed['ours']:.0f} ({spread['ours']} s) "
        f"| {speed['theirs']:.0f} ({spread['theirs']} s) "
        f"| {speed['ours'] / speed['theirs']:.2f} | {apart:.1e} | {ours.compile_seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--chunk", type=int, default=ComputeConfig().attention_chunk)
    parser.add_argument("--remat", default="attention")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = [
        compare(dtype, arguments.repeats, arguments.chunk, arguments.remat)
        for dtype in arguments.dtypes
    ]
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    text = f"""# One training step on a CPU, against transformers + torch

{datetime.date.today()}, commit {commit()[:12]}, `python benchmarks/train_step_cpu.py`

{cpu}, {os.cpu_count()} cores; jax {versions()["jax"]}, torch {torch.__version__}, transformers
{transformers.__version__}; Python {platform.python_version()}.

Llama of 110M parameters (12 layers of 768, vocabulary 32,000, tied), {ROWS} rows of {LENGTH}
tokens, {THREADS} threads each, remat {arguments.remat!r}, tiles of {arguments.chunk}; medians of
{arguments.repeats} steps of each, alternating. float32 parameters and moments in all; bfloat16 is
the dtype of the matrix products (torch: autocast).

| products | ours tokens/s | torch tokens/s | ratio | losses differ by | our compilation, s |
|---|---:|---:|---:|---:|---:|
""" + "\n".join(rows)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
