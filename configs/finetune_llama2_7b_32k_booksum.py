r"""LLaMA-2-7B-32K fine-tuned on summaries of chapters and books, as OpenChatKit's script does.

    python -m llama_jax.train --config=configs/finetune_llama2_7b_32k_booksum.py \
        --config.workdir=runs/llama2_7b_32k_booksum --config.init_from=LLaMA-2-7B-32K

or launch/finetune_llama2_7b_32k_booksum.sh, which reads FINETUNE_TOTAL_STEPS and the other
variables of that script. Needs the data of configs/data_llama2_7b_32k_booksum.py. Settings from
https://github.com/togethercomputer/OpenChatKit (training/finetune_llama-2-7b-32k-booksum.sh and
training/dist_clm_train.py): 4 sequences, 131,072 tokens per step, loss on all tokens. Its 10 steps
show that it runs; how many the published result took is not known.

Four things are as they should be, not as they were: gradients are a mean, clipped as one, RMSNorm's
weights are not decayed, and bfloat16 needs no scaled loss. For theirs add

    --config.loss.reduction=sum_of_rows --config.optim.clip_stages=8 \
    --config.optim.no_decay="('bias',)" --config.compute.dtype=float16 \
    --config.loss_scale.consecutive_hysteresis=False

Expect: not measured yet.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/finetune_llama2_7b_32k_booksum.py \
        --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 26.1 of 71.2 GiB, 9.2 s a step at best, bound by HBM. On
v5p-16: 23.3 of 95.7 GiB, 2.8 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.train import TrainConfig

DATA = "runs/data/llama2_7b_32k_booksum"


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/llama2_7b_32k_booksum"
    c.init_from = "LLaMA-2-7B-32K"
    c.seed = 42
    c.steps = 10

    # Model
    c.model = load.default(presets.LLAMA2_7B_32K)
    c.compute.remat = "attention"  # Keeps attention's output, the dearest to compute again.
    c.compute.attention_chunk = 2048  # Fewer, larger tiles: accelerators wait for memory, not sums.

    # Data: one stream of tokens, cut into rows.
    c.data.tokenizer = f"{DATA}/tokenizer"
    c.data.mixture.booksum = load.default(SourceConfig(path=f"{DATA}/booksum/train"))
    c.data.text.before = "\n"
    c.data.text.add_eos = False
    c.data.packing = "concat"
    c.data.sequence_length = 32_768
    c.data.batch_size = 4

    # Mesh: 8 devices, 2 for each row.
    c.mesh.context = 2

    # Optimizer: no warm-up, linear to 0.
    c.optim.learning_rate = 2e-5
    c.optim.schedule = "linear"
    c.optim.final_fraction = 0.0
    c.optim.betas = (0.9, 0.999)
    c.optim.eps = 1e-6
    c.optim.weight_decay = 0.01
    c.optim.clip = 1.0

    # Checkpoint
    c.checkpoint.every = 10
    return c
