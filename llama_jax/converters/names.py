"""The one map between Hugging Face tensors and our parameters, both ways.

Dimensions: D embed, F mlp, L layers, N query heads, K kv heads, H head size, V vocab.

Hugging Face stores a linear map as [out, in] with the heads flattened, one tensor per layer; we
store [in, out] with every dimension apart and all layers stacked on a leading L. The rows of q and
k need no permutation: both sides turn the pairs (i, i + H/2).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from llama_jax.config.model import ModelConfig

# Ours, theirs ({} is the layer), our dimensions in one layer, theirs ("NH" is N and H flattened).
_TABLE = (
    ("embed/embedding", "model.embed_tokens.weight", "V D", "V D"),
    ("layers/attention_norm/scale", "model.layers.{}.input_layernorm.weight", "D", "D"),
    ("layers/attention/q/kernel", "model.layers.{}.self_attn.q_proj.weight", "D N H", "NH D"),
    ("layers/attention/q/bias", "model.layers.{}.self_attn.q_proj.bias", "N H", "NH"),
    ("layers/attention/k/kernel", "model.layers.{}.self_attn.k_proj.weight", "D K H", "KH D"),
    ("layers/attention/k/bias", "model.layers.{}.self_attn.k_proj.bias", "K H", "KH"),
    ("layers/attention/v/kernel", "model.layers.{}.self_attn.v_proj.weight", "D K H", "KH D"),
    ("layers/attention/v/bias", "model.layers.{}.self_attn.v_proj.bias", "K H", "KH"),
    ("layers/attention/o/kernel", "model.layers.{}.self_attn.o_proj.weight", "N H D", "D NH"),
    ("layers/attention/o/bias", "model.layers.{}.self_attn.o_proj.bias", "D", "D"),
    ("layers/mlp_norm/scale", "model.layers.{}.post_attention_layernorm.weight", "D", "D"),
    ("layers/mlp/gate/kernel", "model.layers.{}.mlp.gate_proj.weight", "D F", "F D"),
    ("layers/mlp/up/kernel", "model.layers.{}.mlp.up_proj.weight", "D F", "F D"),
    ("layers/mlp/down/kernel", "model.layers.{}.mlp.down_proj.weight", "F D", "D F"),
    ("norm/scale", "model.norm.weight", "D", "D"),
    ("head/kernel", "lm_head.weight", "D V", "V D"),
)
HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One parameter of ours (all its layers) and the Hugging Face tensors it is made of."""

    ours: str  # layers/attention/q/kernel
    theirs: str  # model.layers.{}.self_attn.q_proj.weight
    our_dims: str  # "DNH", one layer
    their_dims: str  # "NHD", apart
    their_shape: tuple[int, ...]  # (N*H, D), flattened as stored
    sizes: dict[str, int]
    layers: int  # 0: not a layer's parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns our shape, with the leading L of a layer's parameter."""
        shape = tuple(self.sizes[dim] for dim in self.our_dims)
        return (self.layers, *shape) if self.layers else shape

    def names(self) -> Iterator[str]:
        """Yields the Hugging Face names in the order of the layers."""
        if not self.layers:
            yield self.theirs
        for layer in range(self.layers):
            yield self.theirs.format(layer)

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Returns one Hugging Face tensor in our dimensions, as a view."""
        apart = array.reshape([self.sizes[dim] for dim in self.their_dims])
        return apart.transpose([self.their_dims.index(dim) for dim in self.our_dims])

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Returns one layer of our parameter as the Hugging Face tensor, as a view if it can."""
        apart = array.transpose([self.our_dims.index(dim) for dim in self.their_dims])
        return apart.reshape(self.their_shape)


def tensors(config: ModelConfig) -> list[Tensor]:
    """Returns every parameter of the model."""
    sizes = {
        "D": config.embed,
        "F": config.mlp,
        "N": config.heads,
        "K": config.kv_heads,
        "H": config.head_dim,
        "V": config.vocab,
    }
    return [_tensor(row, sizes, config.layers) for row in _TABLE if _applies(row[0], config)]


def is_ignored(name: str, config: ModelConfig) -> bool:
    """True for a tensor that old checkpoints hold and nobody reads.

    Rotary frequencies follow from the configuration (stored ones may be unscaled, or float16),
    and the head of a model with tied embeddings is its embedding.
    """
    return name.endswith(".rotary_emb.inv_freq") or (name == HEAD and config.tie_embeddings)


def _applies(ours: str, config: ModelConfig) -> bool:
    if ours.endswith("/bias"):
        return config.attention_bias
    return ours != "head/kernel" or not config.tie_embeddings


def _tensor(row: tuple[str, str, str, str], sizes: dict[str, int], layers: int) -> Tensor:
    ours, theirs, our_dims, their_dims = row
    return Tensor(
        ours=ours,
        theirs=theirs,
        our_dims=our_dims.replace(" ", ""),
        their_dims=their_dims.replace(" ", ""),
        their_shape=tuple(
            int(np.prod([sizes[dim] for dim in group])) for group in their_dims.split()
        ),
        sizes=sizes,
        layers=layers if "{}" in theirs else 0,
    )
