r"""QLoRA on Llama-2-70B at 4,096 tokens, on one GPU of 80 GB (Dettmers et al. 2023).

    python -m llama_jax.convert Llama-2-70b-hf Llama-2-70b-bf16 --format=hf --dtype=bfloat16
    python -m llama_jax.train --config=configs/qlora_llama2_70b.py \
        --config.workdir=runs/qlora_70b --config.init_from=Llama-2-70b-bf16 \
        --config.data.tokenizer=Llama-2-70b-hf --config.data.mixture.own.path=own.jsonl.zst
    python -m llama_jax.convert runs/qlora_70b exports/qlora_70b --format=peft

Expect: not measured yet. Planned (compiled with jax 0.10.2 on 2026-11-21, not run) by

    python -m llama_jax.plan --config=configs/qlora_llama2_70b.py --topology=gpu:h100:1

"Fits: 13.64 GiB of 71.20 are left.": 57.56 GiB at the peak (base and adapters 36.95, moments 6.17,
gradients 3.09, inputs of 80 layers 5.00, temporaries 6.35). A step of 65,536 tokens reads and
writes 119 TB, 35 s at the data sheet's rate, and computes 27 s.
Settings of the Guanaco models of https://arxiv.org/abs/2305.14314.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/qlora_70b"
    c.init_from = "Llama-2-70b-bf16"
    c.steps = 1000

    # Model: the layers' matrices in 4.127 bits, the rest of the base in bfloat16.
    c.model = load.default(presets.LLAMA2_70B)
    c.compute.param_dtype = "bfloat16"
    c.compute.remat = "full"
    c.compute.attention_chunk = 1024
    c.lora.r = 64
    c.lora.alpha = 16.0
    c.lora.dropout = 0.05
    c.lora.targets = ("attention/*", "mlp/*")
    c.lora.quantization = "nf4"

    # Data: 16 rows of 4,096 tokens per step, one at a time.
    c.data.tokenizer = "Llama-2-70b-hf"
    c.data.mixture.own = load.default(SourceConfig(path="data/own"))
    c.data.sequence_length = 4096
    c.data.batch_size = 16
    c.accumulate = 16

    # Optimizer
    c.optim.learning_rate = 1e-4  # Half of that of 7B and 13B.
    c.optim.schedule = "constant"
    c.optim.warmup_steps = 50
    c.optim.betas = (0.9, 0.999)
    c.optim.clip = 0.3
    c.optim.weight_decay = 0.0

    # Checkpoint: adapters and their moments only.
    c.checkpoint.every = 100
    return c
