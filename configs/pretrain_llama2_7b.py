r"""Llama-2-7B from scratch at 4,096 tokens (Touvron et al. 2023).

    python -m llama_jax.train --config=configs/pretrain_llama2_7b.py \
        --config.workdir=gs://bucket/llama2_7b --config.data.tokenizer=Llama-2-7b-hf \
        --config.data.mixture.web.path=web.jsonl.zst

Expect: not measured yet. Settings from section 2.2 of https://arxiv.org/abs/2307.09288.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/pretrain_llama2_7b.py --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 50.4 of 71.2 GiB, 38 s a step at best, bound by HBM. On
v5p-16: 34.6 of 95.7 GiB, 61 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/llama2_7b"
    c.steps = 480_000  # 2 trillion tokens.

    # Model
    c.model = load.default(presets.LLAMA2_7B)
    c.compute.remat = "attention"  # Keeps attention's output, the dearest to compute again.
    c.compute.attention_chunk = 2048  # Fewer, larger tiles: accelerators wait for memory, not sums.

    # Data: 4.2 million tokens per step.
    c.data.tokenizer = "Llama-2-7b-hf"
    c.data.mixture.web = load.default(SourceConfig(path="data/web"))
    c.data.sequence_length = 4096
    c.data.batch_size = 1024
    c.accumulate = 16  # On 64 devices one sequence on each at a time, on 8 eight.

    # Optimizer: cosine from 3e-4 to a tenth of it; the other settings are the defaults.
    c.optim.warmup_steps = 2000

    # Checkpoint
    c.checkpoint.every = 1000
    return c
