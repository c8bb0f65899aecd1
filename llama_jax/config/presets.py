"""Published model shapes, from the checkpoints' config.json."""

import dataclasses

from llama_jax.config.model import ModelConfig
from llama_jax.config.rope import RopeConfig

LLAMA2_7B = ModelConfig(
    layers=32, embed=4096, mlp=11008, heads=32, kv_heads=32, head_dim=128, vocab=32000
)
LLAMA2_13B = ModelConfig(
    layers=40, embed=5120, mlp=13824, heads=40, kv_heads=40, head_dim=128, vocab=32000
)
# Never released; shape of Code Llama 34B, whose paper says it started from Llama 2 34B.
LLAMA2_34B = ModelConfig(
    layers=48, embed=8192, mlp=22016, heads=64, kv_heads=8, head_dim=128, vocab=32000
)
LLAMA2_70B = ModelConfig(
    layers=80, embed=8192, mlp=28672, heads=64, kv_heads=8, head_dim=128, vocab=32000
)
MISTRAL_7B = ModelConfig(  # v0.1
    layers=32,
    embed=4096,
    mlp=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=32000,
    context=32768,
    window=4096,
)
OPENHERMES_MISTRAL_7B = dataclasses.replace(MISTRAL_7B, vocab=32002)
LLAMA2_7B_32K = dataclasses.replace(  # togethercomputer/LLaMA-2-7B-32K, and -Instruct
    LLAMA2_7B, context=32768, rope=RopeConfig(scaling="linear", factor=8.0)
)
LLAMA2_13B_8K = dataclasses.replace(  # OpenAssistant/llama2-13b-orca-8k-3319
    LLAMA2_13B, vocab=32016, context=8192, rope=RopeConfig(scaling="linear", factor=2.0)
)
