r"""llama2-13b-orca-8k-3319: Llama-2-13B on long conversations, at 8,192 tokens.

    python -m llama_jax.train --config=configs/llama2_13b_orca_8k.py \
        --config.workdir=runs/llama2_13b_orca_8k --config.init_from=Llama-2-13b-hf

Needs the data of configs/data_llama2_13b_orca_8k.py. Beside each setting stands its name in the
card (https://huggingface.co/OpenAssistant/llama2-13b-orca-8k-3319), which says 424,864 examples in
one epoch of 128 a step: 3,319 steps, as epochs=1 gives with a row for each. Theirs cut texts at
65,535 characters and lost what was behind 8,192 tokens, and threw away most of what they held out;
here texts become pieces of 8,192 tokens, so that there are more of them.

Expect: not measured yet.
Planned, compiled and not run (jax 0.10.2, 2026-11-21), by

    python -m llama_jax.plan --config=configs/llama2_13b_orca_8k.py --topology=gpu:h100:8

and --topology=tpu:v5p:2x2x2. On 8 H100: 52.4 of 71.2 GiB, 23 s a step at best, bound by HBM. On
v5p-16: 45.1 of 95.7 GiB, 31 s a step at best, bound by compute.
"""

from llama_jax.config import load, presets
from llama_jax.config.data import SourceConfig
from llama_jax.config.evaluate import EvaluatorConfig
from llama_jax.config.train import TrainConfig

DATA = "runs/data/llama2_13b_orca_8k"
SOURCES = {  # max_val_set, fraction, max_chunk_size, and what is learned
    "orca_chat": SourceConfig(path="", max_val_set=5000, loss="completion"),
    "fanfics": SourceConfig(path="", max_val_set=1000, max_chunk_size=8192),
    "red_pajama": SourceConfig(path="", max_val_set=1000, max_chunk_size=8192, fraction=0.25),
}


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/llama2_13b_orca_8k"  # output_dir
    c.init_from = "Llama-2-13b-hf"  # model_name
    c.seed = 0xE1291F1A  # rng_seed
    c.epochs = 1.0  # num_train_epochs

    # Model: positions are divided by 2 (superhot, type linear, scale 2).
    c.model = load.default(presets.LLAMA2_13B_8K)
    c.model.residual_dropout = 0.0  # residual_dropout
    c.compute.dtype = "bfloat16"  # dtype: fp16; for it also loss_scale.initial=65536.0
    c.compute.attention = "auto"  # use_flash_attention
    c.compute.attention_chunk = 2048
    c.compute.remat = "attention"  # gradient_checkpointing

    # Data: a row for each example (use_custom_sampler), in random order (sort_by_length: false).
    c.data.tokenizer = f"{DATA}/tokenizer"
    for name, source in SOURCES.items():
        c.data.mixture[name] = load.default(source)
        c.data.mixture[name].path = f"{DATA}/{name}/train"
    c.data.weight_unit = "epochs"
    c.data.packing = "alone"
    c.data.sequence_length = 8192  # max_length
    c.data.batch_size = 128  # per_device_train_batch_size 2 x gradient_accumulation_steps 8 x 8
    c.accumulate = 8

    # Optimizer: warm-up, then constant.
    c.optim.learning_rate = 1e-5  # learning_rate
    c.optim.schedule = "constant"
    c.optim.warmup_steps = 100  # warmup_steps
    c.optim.weight_decay = 0.0  # weight_decay
    c.optim.eps = 1e-12
    c.optim.clip = 2.0

    # Checkpoint
    c.checkpoint.every = 1000  # save_steps
    c.checkpoint.keep_last = 4  # save_total_limit

    # Evaluation: of each set what its max_val_set keeps back.
    c.evaluation.every = 200  # eval_steps
    for name, source in SOURCES.items():
        held = load.default(EvaluatorConfig(sequence_length=8192, rows=-1, batch_size=8))
        held.source.path, held.source.part = f"{DATA}/{name}/train", "held_out"
        held.source.max_val_set, held.source.loss = source.max_val_set, source.loss
        c.evaluation.evaluators[name] = held
    return c
