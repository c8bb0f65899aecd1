"""Any training recipe as a toy: the same data and form, in ten short steps of a tiny model.

    python -m llama_jax.train --config=configs/X.py --config.toy=True

runs on a laptop in a minute and shows whether a recipe and its data work. Settings of the command
line come after the toy's: --config.toy=True --config.steps=50 makes fifty steps. Adapters need a
base of the toy's size: --config.init_from=TOY_RUN.
"""

import ml_collections

from llama_jax.config.mesh import MeshConfig
from llama_jax.config.model import DEFAULT_CHUNK

LENGTH = 128  # Tokens of a row, at most.
STEPS = 10
HELD_OUT = 16  # Documents that are kept back, at most.


def shrink(config: ml_collections.ConfigDict) -> None:
    """Changes the surface of a TrainConfig to that of its toy; the vocabulary stays the data's."""
    config.workdir = f"{config.workdir}_toy" if config.workdir else config.workdir
    config.init_from = ""  # The weights of another shape.
    config.steps, config.epochs = STEPS, 0.0
    config.accumulate = min(config.accumulate, 2)
    _shrink_model(config)
    config.data.sequence_length = min(config.data.sequence_length, LENGTH)
    config.data.batch_size = 8 * config.accumulate  # Also for the eight devices of a host.
    for name in MeshConfig.__dataclass_fields__:
        config.mesh[name] = getattr(MeshConfig(), name)
    if config.lora.quantization != "none":  # Whole on every device.
        config.mesh.data, config.mesh.fsdp = -1, 1
    config.compute.attention_chunk = DEFAULT_CHUNK
    config.loss.chunk = min(config.loss.chunk, LENGTH)
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = min(config.optim.warmup_steps, 2)
    config.optim.clip_stages = min(config.optim.clip_stages, config.model.layers)
    config.checkpoint.every = STEPS // 2
    config.log.every = 1
    if config.evaluation.every:
        config.evaluation.every = STEPS
    evaluators = list(config.evaluation.evaluators.values())
    for evaluator in evaluators:
        evaluator.sequence_length, evaluator.buckets = LENGTH, min(evaluator.buckets, 4)
        evaluator.rows, evaluator.batch_size = 8, 8
    for source in [*config.data.mixture.values(), *(each.source for each in evaluators)]:
        source.max_val_set = min(source.max_val_set, HELD_OUT)
        source.max_chunk_size = min(source.max_chunk_size, LENGTH)


def _shrink_model(config: ml_collections.ConfigDict) -> None:
    """Keeps what makes the model what it is: shared heads, window, scaling and its factor."""
    model = config.model
    shorter = max(1, config.data.sequence_length // LENGTH)
    model.kv_heads = 4 if model.heads == model.kv_heads else 2
    model.heads, model.head_dim, model.embed, model.mlp, model.layers = 4, 8, 32, 64, 2
    model.context = max(model.context // shorter, LENGTH)
    if model.window:
        model.window = max(1, model.window // shorter)
    if model.rope.original_context:
        model.rope.original_context = max(1, model.rope.original_context // shorter)
