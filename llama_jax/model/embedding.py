"""One learned vector per token.

Dimensions: B batch, T tokens, V vocab, D embed.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from llama_jax.config.model import ModelConfig
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.weights import fetch, psum, sum_gradient

TABLE = place.DIMS["embed/embedding"]


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
        if self.layout is None or self.layout.mesh.size == 1:
            return self.embedding[...][token_BT].astype(dtype)
        embedding_VD = self.embedding[...].astype(dtype)  # Less to send to other devices.
        return _lookup(self.layout, len(embedding_VD), embedding_VD, token_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lookup(layout: Layout, V: int, embedding_VD: jax.Array, token_BT: jax.Array) -> jax.Array:
    """Returns [B, T, D]: each device looks up the ids of its rows of the table, all are added.

    XLA left alone makes the whole [B, T, D] on every device.
    """

    def local(embedding_VD, token_BT):
        embedding_VD = fetch(layout, TABLE, embedding_VD)
        row_BT, is_here_BT = _rows(layout, token_BT, len(embedding_VD))
        found_BTD = jnp.where(is_here_BT[..., None], embedding_VD[row_BT], 0)
        return psum(found_BTD, layout.axes("vocab"))

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec(*TABLE), layout.spec("batch", "sequence")),
        out_specs=layout.spec("batch", "sequence", None),
        check_vma=False,  # Every sum over devices is written here.
    )(embedding_VD, token_BT)


def _forward(layout: Layout, V: int, embedding_VD: jax.Array, token_BT: jax.Array):
    return _lookup(layout, V, embedding_VD, token_BT), token_BT


def _backward(layout: Layout, V: int, token_BT: jax.Array, dx_BTD: jax.Array):
    def local(dx_BTD, token_BT):
        here = V // layout.ways("vocab")
        row_BT, is_here_BT = _rows(layout, token_BT, here)
        wide_BTD = jnp.where(is_here_BT[..., None], dx_BTD, 0).astype(jnp.float32)
        grad_VD = jnp.zeros((here, wide_BTD.shape[-1]), jnp.float32).at[row_BT].add(wide_BTD)
        return sum_gradient(layout, TABLE, grad_VD.astype(dx_BTD.dtype))

    grad_VD = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec("batch", "sequence", None), layout.spec("batch", "sequence")),
        out_specs=layout.spec(*TABLE),
        check_vma=False,
    )(dx_BTD, token_BT)
    return grad_VD, None


_lookup.defvjp(_forward, _backward)


def _rows(layout: Layout, token_BT: jax.Array, V: int) -> tuple[jax.Array, jax.Array]:
    """Returns the row of each id in this device's part of V rows, and whether it is there."""
    axes = layout.axes("vocab")
    row_BT = token_BT - (lax.axis_index(axes) * V if axes else 0)
    is_here_BT = (row_BT >= 0) & (row_BT < V)
    return jnp.where(is_here_BT, row_BT, 0), is_here_BT
