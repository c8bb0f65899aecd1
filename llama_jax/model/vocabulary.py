"""Growing the vocabulary of a trained model.

Dimensions: D embed, V vocab.
"""

import jax
import jax.numpy as jnp

from llama_jax.config.model import ModelConfig
from llama_jax.model.llama import Params


def grow(params: Params, config: ModelConfig, key: jax.Array) -> Params:
    """Returns parameters for `config.vocab` tokens: old rows bit for bit, new rows drawn anew.

    New rows of embedding and head are normal with `init_std`, as at the start of training.
    """
    embed_key, head_key = jax.random.split(key)
    old_VD = params["embed"]["embedding"]
    embedding_VD = jnp.concatenate([old_VD, _rows(old_VD, config, embed_key)])
    grown = params | {"embed": {"embedding": embedding_VD}}
    if not config.tie_embeddings:
        old_DV = params["head"]["kernel"]
        new_DV = _rows(old_DV.T, config, head_key).T
        grown["head"] = {"kernel": jnp.concatenate([old_DV, new_DV], axis=1)}
    return grown


def _rows(old_VD: jax.Array, config: ModelConfig, key: jax.Array) -> jax.Array:
    """Returns the rows that are missing below `old_VD`."""
    shape = (config.vocab - old_VD.shape[0], old_VD.shape[1])
    return (config.init_std * jax.random.normal(key, shape, jnp.float32)).astype(old_VD.dtype)
