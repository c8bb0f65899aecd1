"""The Llama: embed -> scan(block) -> norm -> logits. Touvron et al. 2023, arXiv:2307.09288.

Dimensions: B batch, T tokens, S cache slots, D embed, V vocab, L layers.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.kernels.attention.mask import Mask
from llama_jax.model import attention, dropout, rope
from llama_jax.model.attention import Attention
from llama_jax.model.cache import KVCache
from llama_jax.model.embedding import Embed
from llama_jax.model.linear import Linear
from llama_jax.model.mlp import MLP
from llama_jax.model.norm import RMSNorm
from llama_jax.model.quantized import Stored
from llama_jax.model.remat import remat
from llama_jax.sharding.layout import Layout, constrain

Params = dict[str, Any]
NO_LORA = LoraConfig()


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        layout: Layout | None,
        lora: LoraConfig,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(compute.param_dtype)
        self.layout = layout
        self.attention_norm = RMSNorm(config.embed, config.norm_eps, dtype, lora.r > 0)
        self.attention = Attention(config, compute, layout, lora, rngs)
        self.mlp_norm = RMSNorm(config.embed, config.norm_eps, dtype, lora.r > 0)
        self.mlp = MLP(config, dtype, layout, lora, rngs)

    def __call__(self, x_BTD, cos_sin, mask, cache, layer, drop, key):
        """Returns [B, T, D] and the cache with this layer's part.

        `drop` acts on both branches, `key` is of the adapters' dropout.
        """
        y_BTD = self.attention_norm(x_BTD)
        branch_BTD, cache = self.attention(y_BTD, cos_sin, mask, cache, layer, key)
        x_BTD = self._place(x_BTD + drop(branch_BTD, 0))
        x_BTD = self._place(x_BTD + drop(self.mlp(self.mlp_norm(x_BTD), key), 1))
        return x_BTD, cache

    def _place(self, x_BTD: jax.Array) -> jax.Array:
        return constrain(self.layout, x_BTD, "batch", "sequence", None)


class Llama(nnx.Module):
    """A decoder with its layers stacked on a leading axis, so that one program serves any depth.

    With a layout it computes on a mesh. Where that splits sequences, `hidden` takes rows in the
    order of `sharding/zigzag.py`.
    """

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        layout: Layout | None = None,
        lora: LoraConfig = NO_LORA,
        *,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(compute.param_dtype)
        self.config, self.compute, self.layout, self.lora = config, compute, layout, lora
        self.embed = Embed(config, dtype, layout, lora, rngs)
        make_block = nnx.vmap(lambda rngs: Block(config, compute, layout, lora, rngs))
        self.layers = make_block(rngs.split(config.layers))
        self.norm = RMSNorm(config.embed, config.norm_eps, dtype, lora.r > 0)
        if not config.tie_embeddings:
            D, V = (config.embed,), (config.vocab,)
            head = partial(Linear, std=config.init_std, dtype=dtype, layout=layout, lora=lora)
            self.head = head(D, V, "head/kernel", rngs=rngs)

    def __call__(self, token_BT: jax.Array) -> jax.Array:
        """Returns causal next-token logits f32[B, T, V] of rows that start at position 0."""
        position_BT = jnp.broadcast_to(jnp.arange(token_BT.shape[1])[None], token_BT.shape)
        x_BTD, _ = self.hidden(token_BT, position_BT, causal_mask(self.config))
        return self.logits(x_BTD)

    def hidden(
        self,
        token_BT: jax.Array,
        position_BT: jax.Array,
        mask: Mask,
        cache: KVCache | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Returns the normed last hidden states [B, T, D], and the cache with T more tokens.

        Args:
            token_BT: Token ids.
            position_BT: Position of each token in its own sequence.
            mask: Which keys each query may see; with a cache, its `q_offset` is `cache.length`.
            cache: Earlier tokens' keys and values; None attends within `token_BT` alone. With
                "dynamic" scaling a row may grow to `original_context` and no further: beyond, each
                new token changes the angles of all, and with them every layer's keys.
            dropout_key: Turns `residual_dropout` and the dropout of adapters on.
        """
        x_BTD = self.embed(token_BT, self.compute.dtype)
        length_B = position_BT.max(axis=1) + 1
        cos_sin = rope.cos_sin(self.config.rope, self.config.head_dim, position_BT, length_B)
        slots = None if cache is None else cache.k_LBSKH.shape[2]
        mask = attention.prepare(self.config, self.compute, self.layout, mask, token_BT, slots)
        graph, stored, *others = nnx.split(self.layers, Stored, ...)
        # Once and not in each layer: so are their gradients, stacked, in this dtype too.
        layers = jax.tree.map(lambda param: param.astype(self.compute.dtype), others)

        def block(carry, scanned):
            x_BTD, cache = carry
            stored, params, layer, drop, key = scanned
            x_BTD = checkpoint_name(x_BTD, "layer_input")
            return nnx.merge(graph, stored, *params)(
                x_BTD, cos_sin, mask, cache, layer, drop, key
            ), None

        block = remat(block, self.compute.remat)
        drops = dropout.by_layer(self.config, dropout_key)
        keys = dropout.adapter_keys(self.lora, self.config.layers, dropout_key)
        scanned = stored, layers, jnp.arange(self.config.layers), drops, keys
        (x_BTD, cache), _ = jax.lax.scan(block, (x_BTD, cache), scanned)
        return self.norm(x_BTD), cache and cache.advance(token_BT.shape[1])

    def row_mask(self, segment_BT: jax.Array) -> Mask:
        """Returns the mask of rows of the loader.

        "cudnn" knows no segments, and config/train.py sees to it that a row has one. What fills it
        up stands behind its tokens, where none of them sees it, and has no weight.
        """
        without = self.compute.attention == "cudnn"
        return causal_mask(self.config, None if without else segment_BT)

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Returns f32[B, T, V]."""
        head_DV = self.head_DV.astype(x_BTD.dtype)
        return jnp.einsum("BTD,DV->BTV", x_BTD, head_DV, preferred_element_type=jnp.float32)

    @property
    def head_DV(self) -> jax.Array:
        """Returns the output matrix; the transposed embedding if they are tied."""
        if self.config.tie_embeddings:
            return self.embed.embedding[...].T
        assert isinstance(self.head.kernel, nnx.Param)
        return self.head.kernel[...]


def causal_mask(config: ModelConfig, segment_BT: jax.Array | None = None) -> Mask:
    """Returns the mask of training: causal, in the model's window, within each segment."""
    return Mask(causal=True, window=config.window, q_segment_BT=segment_BT, k_segment_BS=segment_BT)


def split(model: Llama) -> tuple[nnx.GraphDef, Params]:
    """Returns the model without its arrays, and the arrays as nested dictionaries by name."""
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state)


def merge(graph: nnx.GraphDef, params: Params) -> Llama:
    """Returns the model that `split` took apart, with these arrays."""
    return nnx.merge(graph, nnx.State(params))


def create(
    config: ModelConfig, compute: ComputeConfig, seed: int, lora: LoraConfig = NO_LORA
) -> Params:
    """Returns freshly initialised parameters; jit it with output shardings to place them."""
    key = jax.random.key(seed)
    rngs = nnx.Rngs(params=key, lora=jax.random.fold_in(key, 1))
    return split(Llama(config, compute, lora=lora, rngs=rngs))[1]


def abstract(
    config: ModelConfig,
    compute: ComputeConfig,
    layout: Layout | None = None,
    lora: LoraConfig = NO_LORA,
) -> tuple[nnx.GraphDef, Params]:
    """Returns the model without arrays, and the shapes of its parameters; allocates nothing."""
    model = nnx.eval_shape(lambda: Llama(config, compute, layout, lora, rngs=nnx.Rngs(0)))
    graph, params = split(model)
    return graph, jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
