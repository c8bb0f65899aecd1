r"""QLoRA on Llama-2-7B at 4,096 tokens, on one GPU of 80 GB (Dettmers et al. 2023).

    python -m llama_jax.convert Llama-2-7b-hf Llama-2-7b-bf16 --format=hf --dtype=bfloat16
    python -m llama_jax.train --config=configs/qlora_llama2_7b.py \
        --config.workdir=runs/qlora_7b --config.init_from=Llama-2-7b-bf16 \
        --config.data.tokenizer=Llama-2-7b-hf --config.data.mixture.own.path=own.jsonl.zst
    python -m llama_jax.convert runs/qlora_7b exports/qlora_7b --format=peft

Expect: not measured yet. Planned (compiled with jax 0.10.2 on 2026-11-21, not run) by

    python -m llama_jax.plan --config=configs/qlora_llama2_7b.py --topology=gpu:h100:1

"Fits: 62.36 GiB of 71.20 are left.": 8.84 GiB at the peak, 4.20 of them base and adapters. On 8
H100 or v5p-16 with accumulate=2, mesh.data=8 and mesh.fsdp=1 as much on each: 8.84, 8.78 GiB.
Settings of the Guanaco models of https://arxiv.org/abs/2305.14314.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/qlora_7b"
    c.init_from = "Llama-2-7b-bf16"
    c.steps = 1000

    # Model: the layers' matrices in 4.127 bits, the rest of the base in bfloat16.
    c.model = load.default(presets.LLAMA2_7B)
    c.compute.param_dtype = "bfloat16"
    c.compute.remat = "full"
    c.compute.attention_chunk = 1024
    c.lora.r = 64
    c.lora.alpha = 16.0
    c.lora.dropout = 0.1
    c.lora.targets = ("attention/*", "mlp/*")
    c.lora.quantization = "nf4"

    # Data: 16 rows of 4,096 tokens per step, one at a time.
    c.data.tokenizer = "Llama-2-7b-hf"
    c.data.mixture.own = load.default(SourceConfig(path="data/own"))
    c.data.sequence_length = 4096
    c.data.batch_size = 16
    c.accumulate = 16

    # Optimizer
    c.optim.learning_rate = 2e-4
    c.optim.schedule = "constant"
    c.optim.warmup_steps = 50
    c.optim.betas = (0.9, 0.999)
    c.optim.clip = 0.3
    c.optim.weight_decay = 0.0

    # Checkpoint: adapters and their moments only.
    c.checkpoint.every = 100
    return c
