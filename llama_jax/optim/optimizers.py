"""AdamW as optax builds it, with clipping before and decay by name."""

from typing import Any

import jax
import optax

from llama_jax.config.optim import OptimConfig
from llama_jax.core import tree
from llama_jax.optim import clip, schedules


def adamw(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Returns clip by norm -> Adam -> decoupled weight decay -> learning rate."""
    chain = optax.chain(
        _clip(config),
        optax.adamw(
            schedules.learning_rate(config, steps),
            b1=config.betas[0],
            b2=config.betas[1],
            eps=config.eps,
            weight_decay=config.weight_decay,
            mu_dtype=config.first_moment_dtype,
            mask=lambda params: decayed(config, params),
        ),
    )

    def update(*arguments: Any, **named: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 counts with floats
            return chain.update(*arguments, **named)

    return optax.GradientTransformation(chain.init, update)


def _clip(config: OptimConfig) -> optax.GradientTransformation:
    if config.clip == float("inf"):
        return optax.identity()
    if config.clip_stages:
        return clip.by_stage(config.clip, config.clip_stages, lambda grads: decayed(config, grads))
    return optax.clip_by_global_norm(config.clip)


def decayed(config: OptimConfig, params: Any) -> Any:
    """Returns a tree of booleans: True where no word of `no_decay` is in the parameter's name."""
    return tree.map_named(
        lambda name, _: not any(word in name.split("/") for word in config.no_decay), params
    )
