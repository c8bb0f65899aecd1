"""The demo's student: the extended demo model learns from its teacher's answers.

    python -m llama_jax.train --config=configs/demo_instruct.py

Needs configs/demo_instruct_data.py. Half of the rows are answers, a quarter each questions over
documents and summaries, as in configs/llama2_7b_32k_instruct.py.

Expect: 90 seconds on 2 idle cores of an AMD EPYC (2026-11-21); it answers 79% of 300 unseen
questions, and none before (58% where the summaries are of Debian's smaller library).
"""

from llama_jax.config import load
from llama_jax.config.data import SourceConfig
from llama_jax.config.model import ModelConfig
from llama_jax.config.rope import RopeConfig
from llama_jax.config.train import TrainConfig


def get_config():
    c = load.default(TrainConfig)
    c.workdir = "runs/demo/instruct/student"
    c.init_from = "runs/demo/extend"
    c.steps = 300

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

    # Data: whole documents, 2,048 tokens per step.
    c.data.tokenizer = "runs/demo/data/tokenizer"
    for name, weight in (("instruct", 0.5), ("mqa", 0.25), ("booksum", 0.25)):
        source = SourceConfig(path=f"runs/demo/instruct/data/mixed/{name}/train", weight=weight)
        c.data.mixture[name] = load.default(source)
    c.data.packing = "best_fit"
    c.data.sequence_length = 512
    c.data.batch_size = 4

    # Optimizer
    c.optim.learning_rate = 2e-3
    c.optim.warmup_steps = 10

    # Checkpoint
    c.checkpoint.every = 100
    return c
