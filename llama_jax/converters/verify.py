"""Compares our logits with those of transformers, on the same weights in float32."""

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.model import llama

_BEYOND = 16  # Tokens past the pretrained context, where a wrong scaling shows.
_SHORT = 64


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two models are apart on one row of `length` tokens."""

    length: int
    logit: float  # max |ours - theirs|
    kl: float  # max over positions of KL(theirs || ours), in nats

    def __str__(self) -> str:
        return f"{self.length} tokens: max |Δlogit| {self.logit:.3g}, max KL {self.kl:.3g}"


def require_torch() -> None:
    """Checks that the comparison can be made at all.

    Raises:
        ValueError: torch or transformers is not installed.
    """
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"--verify compares with transformers, but {' and '.join(missing)} is not installed. "
            "Install the test extra (pip install 'llama-jax[test]'), or leave --verify out."
        )


def lengths(model: ModelConfig) -> list[int]:
    """Returns row lengths: a short one, and one past the pretrained context of a scaled model."""
    short = min(_SHORT, model.context)
    if model.rope.scaling == "none":
        return [short]
    pretrained = model.rope.original_context or math.ceil(model.context / model.rope.factor)
    return sorted({short, min(pretrained + _BEYOND, model.context)})


def compare(model: ModelConfig, params: dict[str, Any], folder: Path) -> list[Difference]:
    """Returns the differences between our parameters and a Hugging Face folder, by length."""
    import torch
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = _float32_model(model, params)
    differences = []
    for length in lengths(model):  # Growing: "dynamic" of transformers remembers the longest row.
        token_BT = np.random.default_rng(0).integers(0, model.vocab, (1, length))
        with torch.no_grad():
            theirs_TV = theirs(torch.tensor(token_BT)).logits[0].numpy()
        ours_TV = np.asarray(ours(jnp.asarray(token_BT, jnp.int32)))[0]
        differences.append(_difference(ours_TV, theirs_TV))
    return differences


def _float32_model(model: ModelConfig, params: dict[str, Any]):
    compute = ComputeConfig(param_dtype="float32", dtype="float32", attention="reference")
    graph, _ = llama.abstract(model, compute)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return jax.jit(lambda token_BT: llama.merge(graph, params)(token_BT))


def _difference(ours_TV: np.ndarray, theirs_TV: np.ndarray) -> Difference:
    ours, theirs = _log_softmax(ours_TV), _log_softmax(theirs_TV)
    kl_T = np.sum(np.exp(theirs) * (theirs - ours), axis=-1)
    delta = np.abs(ours_TV - theirs_TV)
    return Difference(len(ours_TV), float(delta.max()), float(np.abs(kl_T).max()))


def _log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    logits_TV = logits_TV.astype(np.float64)
    shifted_TV = logits_TV - logits_TV.max(axis=-1, keepdims=True)
    return shifted_TV - np.log(np.exp(shifted_TV).sum(axis=-1, keepdims=True))
