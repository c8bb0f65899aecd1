"""The next token from logits: repetition penalty -> temperature -> top_k -> top_p -> draw.

The order and the arithmetic are those of transformers' `generation/logits_process.py`.
Dimensions: B batch, V vocabulary.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

from llama_jax.config.generate import GenerateConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """The settings as arrays, so that one compiled program serves all of them."""

    temperature: jax.Array  # f32
    top_k: jax.Array  # i32
    top_p: jax.Array  # f32
    repetition_penalty: jax.Array  # f32

    @classmethod
    def of(cls, config: GenerateConfig) -> Self:
        """Returns the part of the settings that chooses tokens."""
        return cls(
            temperature=jnp.float32(config.temperature),
            top_k=jnp.int32(config.top_k),
            top_p=jnp.float32(config.top_p),
            repetition_penalty=jnp.float32(config.repetition_penalty),
        )


def choose(
    logits_BV: jax.Array, seen_BV: jax.Array, key_B: jax.Array, sampling: Sampling
) -> jax.Array:
    """Returns the next tokens, i32[B]; each row draws with its own key.

    Args:
        logits_BV: Logits in float32.
        seen_BV: True for tokens that are in the row already.
        key_B: One random key for each row.
        sampling: The settings; temperature 0 takes the argmax.
    """
    logits_BV = penalise(logits_BV, seen_BV, sampling.repetition_penalty)

    def likeliest() -> jax.Array:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def drawn() -> jax.Array:
        sorted_BV, token_BV = by_rank(logits_BV / sampling.temperature)
        rank_B = jax.vmap(jax.random.categorical)(key_B, filtered(sorted_BV, sampling))
        return jnp.take_along_axis(token_BV, rank_B[:, None], axis=1)[:, 0]

    # Sorting a large vocabulary takes longer than the rest of the choice: not if it is not read.
    return jax.lax.cond(sampling.temperature == 0, likeliest, drawn)


def penalise(logits_BV: jax.Array, seen_BV: jax.Array, penalty: jax.Array) -> jax.Array:
    """Returns logits where those seen are divided by the penalty if positive, else multiplied.

    Keskar et al. 2019, https://arxiv.org/abs/1909.05858, section 4.1.
    """
    less_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, less_BV, logits_BV)


def by_rank(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the logits from largest to smallest, and the token of each."""
    token_BV = jax.lax.broadcasted_iota(jnp.int32, logits_BV.shape, 1)
    negated_BV, token_BV = jax.lax.sort((-logits_BV, token_BV), num_keys=1)
    return -negated_BV, token_BV


def filtered(sorted_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns sorted logits where all but the kept are -inf: first top_k, then top_p of these.

    top_k keeps what equals the k-th largest too. top_p keeps the fewest tokens whose mass is at
    least p: those before which there is less than p (Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751).
    """
    last = jnp.where(sampling.top_k == 0, sorted_BV.shape[1], sampling.top_k) - 1
    last = jnp.minimum(last, sorted_BV.shape[1] - 1)
    smallest_B1 = jnp.take_along_axis(sorted_BV, last[None, None], axis=1, mode="clip")
    sorted_BV = jnp.where(sorted_BV >= smallest_B1, sorted_BV, -jnp.inf)
    mass_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(mass_BV, axis=-1) - mass_BV
    first_1V = jnp.arange(sorted_BV.shape[1])[None] == 0
    # p = 1 is not left to the sum: rounding can bring it to 1 before the last token.
    kept_BV = (before_BV < sampling.top_p) | first_1V | (sampling.top_p == 1)
    return jnp.where(kept_BV, sorted_BV, -jnp.inf)
