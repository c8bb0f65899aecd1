"""Low-rank adapters: what they add, and how they are told from, joined with and merged into a base.

The parameters of an adapter are named as its base, in a folder of their own: `attention/q/kernel`
has `attention/q/lora/a` and `attention/q/lora/b`. Hu et al. 2021, https://arxiv.org/abs/2106.09685.

Dimensions: B batch, T tokens, V vocab, D embed; `a` is [inputs, r] and `b` [r, outputs].
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llama_jax.config.lora import ADAPTABLE, LoraConfig
from llama_jax.core import tree
from llama_jax.model.contract import contract
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout

FOLDER = "lora"
Params = dict[str, Any]


class Adapter(nnx.Module):
    """scale b a dropout(x), beside a linear map with these inputs and outputs."""

    def __init__(
        self,
        lora: LoraConfig,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        name: str,
        layout: Layout | None,
        rngs: nnx.Rngs,
    ):
        dtype, bound = jnp.dtype(lora.dtype), 1 / math.sqrt(math.prod(inputs))
        shapes = {"a": (*inputs, lora.r), "b": (lora.r, *outputs)}
        # Kaiming's uniform distribution with a = sqrt(5), as PEFT draws it: 1 / sqrt(inputs).
        a = jax.random.uniform(rngs.lora(), shapes["a"], jnp.float32, -bound, bound)
        self.a, self.b = nnx.Param(a.astype(dtype)), nnx.Param(jnp.zeros(shapes["b"], dtype))
        self.scale, self.dropout, self.layout = lora.scale, lora.dropout, layout
        self.number = ADAPTABLE.index(name)
        self.a_dims, self.b_dims = _dims(layout, name, shapes)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns [B, T, outputs] from [B, T, inputs]; a key turns dropout on."""
        x = self._dropped(x, key)
        z = contract(self.layout, self.a_dims, x, self.a[...])
        z = z * jnp.asarray(self.scale, x.dtype)
        return contract(self.layout, self.b_dims, z, self.b[...])

    def _dropped(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        if key is None or not self.dropout:
            return x
        # Each adapter of a layer draws its own zeros.
        kept = jax.random.uniform(jax.random.fold_in(key, self.number), x.shape) >= self.dropout
        return jnp.where(kept, x / jnp.asarray(1 - self.dropout, x.dtype), jnp.zeros((), x.dtype))


class EmbedAdapter(nnx.Module):
    """The parameters of scale b a[token]; as in PEFT, a starts at zero and b normal."""

    def __init__(self, lora: LoraConfig, V: int, D: int, layout: Layout | None, rngs: nnx.Rngs):
        dtype, shapes = jnp.dtype(lora.dtype), {"a": (V, lora.r), "b": (lora.r, D)}
        b = jax.random.normal(rngs.lora(), shapes["b"], jnp.float32)
        self.a, self.b = nnx.Param(jnp.zeros(shapes["a"], dtype)), nnx.Param(b.astype(dtype))
        self.scale = lora.scale
        self.a_dims, self.b_dims = _dims(layout, "embed", shapes)


def divide(params: Params) -> tuple[Params, Params]:
    """Returns (adapters, base)."""
    adapters: Params = {}
    base: Params = {}
    for name, value in params.items():
        if name == FOLDER:
            adapters[name] = value
        elif isinstance(value, dict):
            parts = divide(value)
            adapters |= {name: parts[0]} if parts[0] else {}
            base |= {name: parts[1]} if parts[1] else {}
        else:
            base[name] = value
    return adapters, base


def join(base: Params, adapters: Params) -> Params:
    """Returns the parameters that `divide` took apart."""
    joined = dict(base)
    for name, value in adapters.items():
        joined[name] = join(joined[name], value) if name in joined else value
    return joined


def merge(params: Params, adapters: Params, scale: float) -> Params:
    """Returns the base with scale b a added to what they adapt; with -scale, taken from it again.

    Sums are float32, rounded once to the dtype of the base.
    """
    pairs = tree.named_leaves(adapters)

    def merged(name: str, base: jax.Array) -> jax.Array:
        a, b = (pairs.get(f"{name.rpartition('/')[0]}/{FOLDER}/{part}") for part in "ab")
        # A bias lies beside its kernel, and has no adapter.
        is_matrix = name.endswith(("/kernel", "/embedding"))
        return base if a is None or not is_matrix else merged_leaf(name, base, a, b, scale=scale)

    return tree.map_named(merged, params)


def merged_leaf(name: str, base: Any, a: Any, b: Any, *, scale: float) -> jax.Array:
    """Returns base + scale b a of one parameter, layer by layer where it has layers."""

    def delta(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.tensordot(a.astype(jnp.float32), b.astype(jnp.float32), axes=1)

    if name.startswith("layers/"):
        delta = jax.vmap(delta)
    return (jnp.asarray(base).astype(jnp.float32) + scale * delta(a, b)).astype(base.dtype)


def _dims(layout: Layout | None, name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple:
    """Returns the dimensions of a and of b by which they are split."""
    if layout is None:
        return (), ()
    return tuple(
        place.kernel_dims(layout, f"{name}/{FOLDER}/{part}", shape)
        for part, shape in shapes.items()
    )
