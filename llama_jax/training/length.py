"""How many steps a run has, if its settings say how often the data is read."""

import dataclasses

from llama_jax.config.train import TrainConfig


def with_steps(config: TrainConfig, rows: int) -> TrainConfig:
    """Returns the settings with floor(epochs * rows / batch_size) steps, or as they are.

    Args:
        config: Of the run.
        rows: Of one epoch of all sources together.

    Raises:
        ValueError: There are not enough rows for a step.
    """
    if not config.epochs:
        return config
    steps = int(config.epochs * rows // config.data.batch_size)
    if not steps:
        raise ValueError(
            f"epochs is {config.epochs} but {rows} rows are less than one step of "
            f"{config.data.batch_size}. Set --config.epochs or --config.data.batch_size."
        )
    return dataclasses.replace(config, epochs=0.0, steps=steps)
