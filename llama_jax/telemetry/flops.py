"""Floating-point operations per trained token, by formula.

A multiply and an add count as two operations; the backward pass costs twice the forward pass, so a
token costs 6 per matrix parameter. Recomputation (remat) is not counted: the result is model FLOPs.
Element-wise work and the embedding look-up are left out, as in https://arxiv.org/abs/2204.02311,
appendix B.

Two conventions are in use for attention, and at 32K tokens they differ by 39% for Llama-2-7B, so
every number carries its name: "full" counts the square of queries and keys, "causal" the half of
it that is needed.
"""

from typing import Literal

from llama_jax.config.model import ModelConfig

Convention = Literal["causal", "full"]


def matrix_parameters(model: ModelConfig) -> int:
    """Returns L (2 D N H + 2 D K H + 3 D F) + D V: every matrix that multiplies a token.

    The head counts also where it is the embedding transposed; the embedding as a table does not.
    """
    attention = 2 * model.embed * (model.heads + model.kv_heads) * model.head_dim
    mlp = 3 * model.embed * model.mlp
    return model.layers * (attention + mlp) + model.embed * model.vocab


def attended_keys(model: ModelConfig, sequence_length: int, convention: Convention) -> float:
    """Returns the keys counted per query, on average over a row of one document.

    With W = min(window, S) this is W for "full" and W - W W / 2S for "causal": S and S / 2 without
    a window.
    """
    window = min(model.window or sequence_length, sequence_length)
    if convention == "full":
        return float(window)
    return window - window * window / (2 * sequence_length)


def per_token(model: ModelConfig, sequence_length: int, convention: Convention) -> float:
    """Returns 6 N_mm + 12 L N H S operations, forward and backward; S is `attended_keys`."""
    keys = attended_keys(model, sequence_length, convention)
    attention = 12 * model.layers * model.heads * model.head_dim * keys
    return 6 * matrix_parameters(model) + attention
