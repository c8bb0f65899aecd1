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

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig

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


def adapter_parameters(model: ModelConfig, lora: LoraConfig) -> int:
    """Returns the parameters of adapters that multiply a token: r (inputs + outputs) of each.

    Of the embedding's r D: the other is a table.
    """
    D, F = model.embed, model.mlp
    heads, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sizes = {"attention/q": D + heads, "attention/k": D + keys, "attention/v": D + keys}
    sizes |= {"attention/o": D + heads} | dict.fromkeys(("mlp/gate", "mlp/up", "mlp/down"), D + F)
    in_layers = sum(sizes[name] for name in lora.adapted if name in sizes)
    return lora.r * (model.layers * in_layers + (D if "embed" in lora.adapted else 0))


def per_token(
    model: ModelConfig,
    sequence_length: int,
    convention: Convention,
    lora: LoraConfig | None = None,
) -> float:
    """Returns 6 N_mm + 12 L N H S operations, forward and backward; S is `attended_keys`.

    With adapters of N_a parameters 4 N_mm + 6 N_a + 12 L N H S: the base has no gradient.
    """
    keys = attended_keys(model, sequence_length, convention)
    attention = 12 * model.layers * model.heads * model.head_dim * keys
    if lora is None or not lora.r:
        return 6 * matrix_parameters(model) + attention
    return 4 * matrix_parameters(model) + 6 * adapter_parameters(model, lora) + attention


def recomputed_per_token(
    model: ModelConfig, compute: ComputeConfig, sequence_length: int, convention: Convention
) -> float:
    """Returns the operations that a step repeats, and `per_token` therefore does not count.

    In the backward pass: the scores of attention, 2 L N H S, unless "reference" keeps them; and by
    `compute.remat`

        none, minimal       nothing else
        attention           every matrix of a layer but the MLP's last, whose output nobody needs:
                            2 L (2 D N H + 2 D K H + 2 D F)
        full, offload       these, and attention's forward pass, 4 L N H S
    """
    keys = attended_keys(model, sequence_length, convention)
    product = 2 * model.layers * model.heads * model.head_dim * keys
    attention = 2 * model.embed * (model.heads + model.kv_heads) * model.head_dim
    matrices = 2 * model.layers * (attention + 2 * model.embed * model.mlp)
    keeps_scores = compute.attention == "reference" and compute.remat == "none"
    scores = 0.0 if keeps_scores else product
    if compute.remat in ("none", "minimal"):
        return scores
    return scores + matrices + (0 if compute.remat == "attention" else 2 * product)


def per_decoded_token(model: ModelConfig, cached: int) -> float:
    """Returns 2 N_mm + 4 L N H S operations for one token that attends to S = `cached` others."""
    return 2 * matrix_parameters(model) + 4 * model.layers * model.heads * model.head_dim * cached
