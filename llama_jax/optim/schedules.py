"""Learning rate as a function of the number of updates made."""

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
    after = shapes[config.schedule]()
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(peak * config.warmup_start, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])
