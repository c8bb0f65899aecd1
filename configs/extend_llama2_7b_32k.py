r"""Llama-2-7B, 4k -> 32k context by position interpolation or YaRN.

    python -m llama_jax.train --config=configs/extend_llama2_7b_32k.py \
        --config.workdir=runs/llama2_7b_32k --config.init_from=Llama-2-7b-hf \
        --config.data.tokenizer=Llama-2-7b-hf --config.data.mixture.books.path=books.jsonl.zst

With --config=configs/extend_llama2_7b_32k.py:yarn positions are stretched by frequency. YaRN
was published for 64k and 128k.

Expect: not measured yet. Settings of interpolation from section 3.1 of
https://arxiv.org/abs/2306.15595, of YaRN from section 4.1 of https://arxiv.org/abs/2309.00071.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/extend_llama2_7b_32k.py --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 39.3 of 71.2 GiB, 177 s a step at best, bound by HBM. On
v5p-16: 34.9 of 95.7 GiB, 91 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.config.train import TrainConfig


def get_config(scaling="linear"):
    c = load.default(TrainConfig)
    c.workdir = f"runs/llama2_7b_32k_{scaling}"
    c.init_from = "Llama-2-7b-hf"
    c.steps = 1000

    # Model: 32,768 tokens span the trained 4,096.
    c.model = load.default(presets.LLAMA2_7B)
    c.model.context = 32_768
    yarn = {"original_context": 4096} if scaling == "yarn" else {}
    c.model.rope = load.default(RopeConfig(scaling=scaling, factor=8.0, **yarn))
    c.compute.remat = "attention"  # Keeps attention's output, the dearest to compute again.
    c.compute.attention_chunk = 2048  # Fewer, larger tiles: accelerators wait for memory, not sums.

    # Data: 128 sequences, 4.2 million tokens per step.
    c.data.tokenizer = "Llama-2-7b-hf"
    c.data.mixture.books = load.default(SourceConfig(path="data/books"))
    c.data.sequence_length = 32_768
    c.data.batch_size = 128
    c.accumulate = 16

    # Optimizer: warm-up from a tenth of the peak, then constant, no decay.
    c.optim.learning_rate = 2e-5
    c.optim.schedule = "constant"
    c.optim.warmup_steps = 20
    c.optim.warmup_start = 0.1
    c.optim.weight_decay = 0.0

    # Checkpoint
    c.checkpoint.every = 100
    return c
