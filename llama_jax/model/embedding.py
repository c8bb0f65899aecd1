"""One learned vector per token.

Dimensions: B batch, T tokens, V vocab, D embed (of an adapter: P, its rank).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ModelConfig
from llama_jax.model.contract import contract
from llama_jax.model.lora import EmbedAdapter
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.weights import Dims, fetch, psum, sum_gradient

TABLE = place.DIMS["embed/embedding"]


class Embed(nnx.Module):
    """embedding[token], and what an adapter adds."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        layout: Layout | None,
        lora: LoraConfig,
        rngs: nnx.Rngs,
    ):
        shape = (config.vocab, config.embed)
        table = config.init_std * jax.random.normal(rngs.params(), shape, jnp.float32)
        self.embedding = nnx.Param(table.astype(dtype))
        self.layout = layout
        self.lora = nnx.data(None)
        if "embed" in lora.adapted:
            self.lora = EmbedAdapter(lora, *shape, layout, rngs)

    def __call__(self, token_BT: jax.Array, dtype: str) -> jax.Array:
        """Returns [B, T, D] in `dtype`."""
        x_BTD = _looked_up(self.layout, TABLE, self.embedding[...], token_BT, dtype)
        if (lora := self.lora) is None:
            return x_BTD
        z_BTP = _looked_up(self.layout, lora.a_dims, lora.a[...], token_BT, dtype)
        z_BTP = z_BTP * jnp.asarray(lora.scale, dtype)
        return x_BTD + contract(self.layout, lora.b_dims, z_BTP, lora.b[...])


def _looked_up(
    layout: Layout | None, dims: Dims, table_VD: jax.Array, token_BT: jax.Array, dtype: str
) -> jax.Array:
    """Returns table[token] as [B, T, D] in `dtype`; `dims` says how the table is split."""
    if layout is None or layout.mesh.size == 1:
        return table_VD[token_BT].astype(dtype)
    table_VD = table_VD.astype(dtype)  # Less to send to other devices.
    return _lookup(layout, dims, len(table_VD), table_VD, token_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _lookup(
    layout: Layout, dims: Dims, V: int, embedding_VD: jax.Array, token_BT: jax.Array
) -> jax.Array:
    """Returns [B, T, D]: each device looks up the ids of its rows of the table, all are added.

    XLA left alone makes the whole [B, T, D] on every device.
    """

    def local(embedding_VD, token_BT):
        embedding_VD = fetch(layout, dims, embedding_VD)
        row_BT, is_here_BT = _rows(layout, token_BT, len(embedding_VD))
        found_BTD = jnp.where(is_here_BT[..., None], embedding_VD[row_BT], 0)
        return psum(found_BTD, layout.axes("vocab"))

    return jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec(*dims), layout.spec("batch", "sequence")),
        out_specs=layout.spec("batch", "sequence", None),
        check_vma=False,  # Every sum over devices is written here.
    )(embedding_VD, token_BT)


def _forward(layout: Layout, dims: Dims, V: int, embedding_VD: jax.Array, token_BT: jax.Array):
    return _lookup(layout, dims, V, embedding_VD, token_BT), token_BT


def _backward(layout: Layout, dims: Dims, V: int, token_BT: jax.Array, dx_BTD: jax.Array):
    def local(dx_BTD, token_BT):
        here = V // layout.ways("vocab")
        row_BT, is_here_BT = _rows(layout, token_BT, here)
        wide_BTD = jnp.where(is_here_BT[..., None], dx_BTD, 0).astype(jnp.float32)
        grad_VD = jnp.zeros((here, wide_BTD.shape[-1]), jnp.float32).at[row_BT].add(wide_BTD)
        return sum_gradient(layout, dims, grad_VD.astype(dx_BTD.dtype))

    grad_VD = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec("batch", "sequence", None), layout.spec("batch", "sequence")),
        out_specs=layout.spec(*dims),
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
