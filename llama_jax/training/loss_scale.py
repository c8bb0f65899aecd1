"""Dynamic loss scaling (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).

Nothing in float16 is between 0 and 6e-8, where many gradients are, or above 65504. The loss is
therefore multiplied with as large a number as gradients bear:

    an overflow            the step is left out; from the hysteresis-th one on, scale / 2
    growth_steps without   scale * 2
"""

import dataclasses

import jax
import jax.numpy as jnp

from llama_jax.config.loss_scale import LossScaleConfig
from llama_jax.data.batch import Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """What the next loss is multiplied with, and what decides the one after it."""

    scale: jax.Array  # f32
    overflows: jax.Array  # i32: since the count last began.
    finite_in_a_row: jax.Array  # i32: since the scale last changed, or an overflow.


def create(config: LossScaleConfig) -> LossScale:
    """Returns the scale before the first step."""
    zero = jnp.zeros((), jnp.int32)
    return LossScale(jnp.asarray(config.initial, jnp.float32), zero, zero)


def scaled(loss_scale: LossScale, batch: Batch) -> tuple[Batch, jax.Array]:
    """Returns the batch with weights times scale / (B T), and that factor.

    So the mean over all B T tokens is scaled. Their sum, which is what is differentiated otherwise,
    is more than float16 holds.
    """
    factor = loss_scale.scale / batch.weight_BT.size
    return dataclasses.replace(batch, weight_BT=batch.weight_BT * factor), factor


def after(config: LossScaleConfig, old: LossScale, is_finite: jax.Array) -> LossScale:
    """Returns the scale of the next step, after one whose gradients were finite or not."""
    overflows = old.overflows + 1
    halved = jnp.maximum(old.scale / 2, config.smallest)
    on_overflow = LossScale(
        scale=jnp.where(overflows >= config.hysteresis, halved, old.scale),
        overflows=overflows,
        finite_in_a_row=jnp.zeros_like(old.finite_in_a_row),
    )
    finite = old.finite_in_a_row + 1
    grows = finite >= config.growth_steps
    forgets = grows | config.consecutive_hysteresis
    on_finite = LossScale(
        scale=jnp.where(grows, old.scale * 2, old.scale),
        overflows=jnp.where(forgets, 0, old.overflows),
        finite_in_a_row=jnp.where(grows, 0, finite),
    )
    return jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), on_finite, on_overflow)
