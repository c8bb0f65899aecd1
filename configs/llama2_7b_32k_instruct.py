r"""Llama-2-7B-32K-Instruct: LLaMA-2-7B-32K on conversations, summaries and questions.

    python -m llama_jax.train --config=configs/llama2_7b_32k_instruct.py \
        --config.workdir=runs/llama2_7b_32k_instruct --config.init_from=LLaMA-2-7B-32K

Needs the data of configs/data_llama2_7b_32k_instruct.py, half of whose documents are conversations,
a quarter each BookSum and multi-document questions. 4 epochs, 32 sequences per step, learning rate
1e-5 (https://huggingface.co/togethercomputer/Llama-2-7B-32K-Instruct).

Expect: not measured yet.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/llama2_7b_32k_instruct.py --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 39.3 of 71.2 GiB, 44 s a step at best, bound by HBM. On
v5p-16: 34.9 of 95.7 GiB, 23 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig

DATA = "runs/data/llama2_7b_32k_instruct"


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/llama2_7b_32k_instruct"
    c.init_from = "LLaMA-2-7B-32K"
    c.epochs = 4.0

    # Model
    c.model = load.default(presets.LLAMA2_7B_32K)
    c.compute.remat = "attention"  # Keeps attention's output, the dearest to compute again.
    c.compute.attention_chunk = 2048  # Fewer, larger tiles: accelerators wait for memory, not sums.

    # Data: every document as often. One stream of tokens, as the model it starts from was trained.
    c.data.tokenizer = f"{DATA}/tokenizer"
    for name in ("instruct", "booksum", "mqa"):
        c.data.mixture[name] = load.default(SourceConfig(path=f"{DATA}/{name}/train"))
    c.data.weight_unit = "epochs"
    c.data.text.before = "\n"
    c.data.text.add_eos = False
    c.data.packing = "concat"
    c.data.sequence_length = 32_768
    c.data.batch_size = 32
    c.accumulate = 4

    # Optimizer: of the hosted service that trained it nothing but the rate is known.
    c.optim.learning_rate = 1e-5
    c.optim.schedule = "linear"
    c.optim.final_fraction = 0.0
    c.optim.betas = (0.9, 0.999)
    c.optim.eps = 1e-6
    c.optim.weight_decay = 0.01

    # Checkpoint
    c.checkpoint.every = 100
    return c
