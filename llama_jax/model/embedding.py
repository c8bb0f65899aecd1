"""One learned vector per token.

Dimensions: B batch, T tokens, V vocab, D embed.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from llama_jax.config.model import ModelConfig
from llama_jax.sharding.layout import Layout


class Embed(nnx.Module):
    """embedding[token]."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, layout: Layout | None, rngs: nnx.Rngs
    ):
        shape = (config.vocab, config.embed)
        table = config.init_std * jax.random.normal(rngs.params(), shape, jnp.float32)
        self.embedding = nnx.Param(table.astype(dtype))
        self.layout = layout

    def __call__(self, token_BT: jax.Array, dtype: str) -> jax.Array:
        """Returns [B, T, D] in `dtype`."""
        embedding_VD = self.embedding[...].astype(dtype)
        if self.layout is None:
            return embedding_VD[token_BT]
        return _split_lookup(self.layout, embedding_VD, token_BT)


def _split_lookup(layout: Layout, embedding_VD: jax.Array, token_BT: jax.Array) -> jax.Array:
    """Returns [B, T, D]: each device looks up the ids of its rows of the table, all are added.

    XLA left alone makes the whole [B, T, D] on every device.
    """
    vocab, embed = layout.axes("vocab"), layout.axes("embed")

    def local(embedding_VD, token_BT):
        if embed:
            embedding_VD = lax.all_gather(embedding_VD, embed, axis=1, tiled=True)
        if not vocab:
            return embedding_VD[token_BT]
        V = embedding_VD.shape[0]
        row_BT = token_BT - lax.axis_index(vocab) * V
        here_BT1 = ((row_BT >= 0) & (row_BT < V))[..., None]
        found_BTD = embedding_VD[jnp.clip(row_BT, 0, V - 1)]
        return lax.psum(jnp.where(here_BT1, found_BTD, jnp.zeros((), found_BTD.dtype)), vocab)

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec("vocab", "embed"), layout.spec("batch", "sequence")),
        out_specs=layout.spec("batch", "sequence", None),
    )(embedding_VD, token_BT)
