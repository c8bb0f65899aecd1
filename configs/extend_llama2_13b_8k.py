r"""Llama-2-13B, 4k -> 8k context by linear position interpolation (Chen et al. 2023).

    python -m llama_jax.train --config=configs/extend_llama2_13b_8k.py \
        --config.workdir=runs/llama2_13b_8k --config.init_from=Llama-2-13b-hf \
        --config.data.tokenizer=Llama-2-13b-hf --config.data.mixture.books.path=books.jsonl.zst

Expect: not measured yet. Settings from section 3.1 of https://arxiv.org/abs/2306.15595.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/extend_llama2_13b_8k.py --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 43.2 of 71.2 GiB, 11.9 s a step at best, bound by HBM. On
v5p-16: 38.1 of 95.7 GiB, 15.5 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/llama2_13b_8k"
    c.init_from = "Llama-2-13b-hf"
    c.steps = 1000

    # Model: positions are halved, so that 8,192 tokens span the trained 4,096.
    c.model = load.default(presets.LLAMA2_13B)
    c.model.context = 8192
    c.model.rope.scaling = "linear"
    c.model.rope.factor = 2.0
    c.compute.remat = "attention"  # Keeps attention's output, the dearest to compute again.
    c.compute.attention_chunk = 2048  # Fewer, larger tiles: accelerators wait for memory, not sums.

    # Data: 64 sequences, half a million tokens per step.
    c.data.tokenizer = "Llama-2-13b-hf"
    c.data.mixture.books = load.default(SourceConfig(path="data/books"))
    c.data.sequence_length = 8192
    c.data.batch_size = 64
    c.accumulate = 8  # On 8 devices one sequence on each at a time.

    # Optimizer: warm-up from a tenth of the peak, then constant, no decay.
    c.optim.learning_rate = 2e-5
    c.optim.schedule = "constant"
    c.optim.warmup_steps = 20
    c.optim.warmup_start = 0.1
    c.optim.weight_decay = 0.0

    # Checkpoint
    c.checkpoint.every = 100
    return c
