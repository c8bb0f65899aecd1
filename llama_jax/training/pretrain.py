"""The objective of pretraining: the cross-entropy of the next token."""

import jax
from flax import nnx

from llama_jax.config.train import LossConfig
from llama_jax.data.batch import Batch
from llama_jax.losses.cross_entropy import chunked_cross_entropy
from llama_jax.model import llama


def loss(
    graph: nnx.GraphDef,
    config: LossConfig,
    params: llama.Params,
    batch: Batch,
    dropout_key: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum over tokens of -log p(target), and sums for the metrics.

    A sum, not a mean: micro-batches and rows of different weight then add up exactly.
    """
    model = llama.merge(graph, params)
    mask = model.row_mask(batch.segment_BT)
    x_BTD, _ = model.hidden(batch.token_BT, batch.position_BT, mask, dropout_key=dropout_key)
    return chunked_cross_entropy(
        x_BTD,
        model.head_DV,
        batch.target_BT,
        batch.weight_BT,
        chunk=config.chunk,
        z_loss=config.z_loss,
        layout=model.layout,
        frozen_head=model.lora.r > 0,
    )
