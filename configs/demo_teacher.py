"""The demo's teacher: the extended demo model learns to answer questions.

    python -m llama_jax.train --config=configs/demo_teacher.py

Needs runs/demo/extend (`make demo`) and configs/demo_lessons.py. It plays the large model of
configs/distill_llama2_7b_32k_instruct.py.

Expect: 76 seconds on 2 cores of an AMD EPYC (2026-11-21); it answers 100% of 300 unseen questions.
"""

from llama_jax.config import load
from llama_jax.config.data import SourceConfig
from llama_jax.config.model import ModelConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/demo/instruct/teacher"
    c.init_from = "runs/demo/extend"
    c.steps = 200

    # Model: the demo's, extended to 2,048 tokens.
    c.model = load.default(
        ModelConfig(
            layers=6,
            embed=192,
            mlp=512,
            heads=6,
            kv_heads=6,
            head_dim=32,
            vocab=4096,
            context=2048,
            rope=RopeConfig(scaling="linear", factor=4.0),
        )
    )
    c.compute.dtype = "float32"  # CPUs multiply float32 faster than bfloat16.
    c.compute.remat = "attention"  # On a CPU recomputing products beats writing them.

    # Data: whole questions, answers alone are learned; 2,048 tokens per step.
    c.data.tokenizer = "runs/demo/data/tokenizer"
    c.data.mixture.taught = load.default(
        SourceConfig(path="runs/demo/instruct/data/lessons/taught/train", loss="completion")
    )
    c.data.packing = "best_fit"
    c.data.sequence_length = 256
    c.data.batch_size = 8

    # Optimizer
    c.optim.learning_rate = 2e-3
    c.optim.warmup_steps = 10

    # Checkpoint
    c.checkpoint.every = 100
    return c
