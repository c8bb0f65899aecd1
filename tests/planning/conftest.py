"""A small training run to plan."""

import pytest

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.train import TrainConfig


@pytest.fixture
def config() -> TrainConfig:
    """3 layers, D=64, F=128, 4 query and 2 key heads of 16, V=256; 16 rows of 64 tokens."""
    return TrainConfig(
        workdir="unused",
        model=ModelConfig(
            layers=3, embed=64, mlp=128, heads=4, kv_heads=2, head_dim=16, vocab=256, context=64
        ),
        data=DataConfig(
            tokenizer="unused",
            mixture={"x": SourceConfig(path="unused")},
            sequence_length=64,
            batch_size=16,
        ),
        compute=ComputeConfig(dtype="float32", remat="full", attention_chunk=64),
    )
