r"""LLaMA-2-7B-32K, second phase: examples in long contexts, beside long documents.

    python -m llama_jax.train --config=configs/llama2_7b_32k_phase2.py \
        --config.workdir=runs/llama2_7b_32k_phase2 --config.init_from=runs/llama2_7b_32k_phase1

Needs the first phase and the data of configs/data_llama2_7b_32k_phase2.py: Natural Instructions and
P3 packed to 32,768 tokens, the Pile, books and arXiv, a fifth of the rows each
(https://www.together.ai/blog/llama-2-7b-32k). The loss is on all tokens; loss="completion" of the
first two would take the examples' answers alone. What was not published is as in the first phase.

Expect: not measured yet.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/llama2_7b_32k_phase2.py --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 39.3 of 71.2 GiB, 177 s a step at best, bound by HBM. On
v5p-16: 34.9 of 95.7 GiB, 91 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig

DATA = "runs/data/llama2_7b_32k_phase2"


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/llama2_7b_32k_phase2"
    c.init_from = "runs/llama2_7b_32k_phase1"
    c.steps = 180

    # Model: positions are divided by 8, so that 32,768 tokens span the trained 4,096.
    c.model = load.default(presets.LLAMA2_7B_32K)
    c.compute.remat = "attention"  # Keeps attention's output, the dearest to compute again.
    c.compute.attention_chunk = 2048  # Fewer, larger tiles: accelerators wait for memory, not sums.

    # Data: 128 sequences, 4.2 million tokens per step; one stream of tokens, as it was released.
    c.data.tokenizer = f"{DATA}/tokenizer"
    for name in ("natural_instructions", "p3", "pile", "books", "arxiv"):
        c.data.mixture[name] = load.default(SourceConfig(path=f"{DATA}/{name}/train", weight=0.2))
    c.data.text.before = "\n"
    c.data.text.add_eos = False
    c.data.packing = "concat"
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
    c.checkpoint.every = 20
    return c
