"""Learning rate as a function of the number of updates made."""

import jax
import optax

from llama_jax.config.optim import OptimConfig


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Returns update count -> learning rate: linear warm-up, then the shape down to the last step.

    Update k (from 0) of the warm-up has start + (1 - start) k / warmup_steps of the peak; update
    warmup_steps has the peak; update `steps` (one after the last) has final_fraction of it.
    """
    peak, left = config.learning_rate, steps - config.warmup_steps
    shapes = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, peak * config.final_fraction, left),
        "cosine": lambda: optax.cosine_decay_schedule(peak, left, config.final_fraction),
    }
    schedule = shapes[config.schedule]()
    if config.warmup_steps:
        warmup = optax.linear_schedule(peak * config.warmup_start, peak, config.warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [config.warmup_steps])

    def rate(count: jax.Array) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes the count with floats
            return schedule(count)

    return rate
