r"""LoRA on Llama-2-7B at 4,096 tokens, on one GPU of 80 GB (Hu et al. 2021).

    python -m llama_jax.convert Llama-2-7b-hf Llama-2-7b-bf16 --format=hf --dtype=bfloat16
    python -m llama_jax.train --config=configs/lora_llama2_7b.py \
        --config.workdir=runs/lora_7b --config.init_from=Llama-2-7b-bf16 \
        --config.data.tokenizer=Llama-2-7b-hf --config.data.mixture.own.path=own.jsonl.zst
    python -m llama_jax.convert runs/lora_7b exports/lora_7b --format=peft

Expect: not measured yet. Planned (compiled with jax 0.10.2 on 2026-11-21, not run) by

    python -m llama_jax.plan --config=configs/lora_llama2_7b.py --topology=gpu:h100:1

"Fits: 56.51 GiB of 71.20 are left.": 14.69 GiB at the peak, 12.57 of them the base in bfloat16.
With --config.accumulate=2 on 8 H100 (gpu:h100:8) 4.25, on v5p-16 (tpu:v5p:2x2x2) 3.76 GiB each.
Settings of llama-recipes: r 8, alpha 32, dropout 0.05, learning rate 1e-4, q and v.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/lora_7b"
    c.init_from = "Llama-2-7b-bf16"
    c.steps = 1000

    # Model: the base is kept in bfloat16, adapters in float32.
    c.model = load.default(presets.LLAMA2_7B)
    c.compute.param_dtype = "bfloat16"
    c.compute.remat = "full"
    c.compute.attention_chunk = 1024
    c.lora.r = 8
    c.lora.alpha = 32.0
    c.lora.dropout = 0.05

    # Data: 16 rows of 4,096 tokens per step, one at a time.
    c.data.tokenizer = "Llama-2-7b-hf"
    c.data.mixture.own = load.default(SourceConfig(path="data/own"))
    c.data.sequence_length = 4096
    c.data.batch_size = 16
    c.accumulate = 16

    # Optimizer
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 50
    c.optim.weight_decay = 0.0

    # Checkpoint: adapters and their moments only, 50 MB.
    c.checkpoint.every = 100
    return c
