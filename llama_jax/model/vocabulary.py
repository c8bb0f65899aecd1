"""The vocabulary of a trained model, made larger or put in another order.

Dimensions: D embed, V vocab.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.config.model import ModelConfig
from llama_jax.config.train import AddedRows
from llama_jax.model.llama import Params


def arrange(
    params: Params, config: ModelConfig, row_V: np.ndarray, added: AddedRows, key: jax.Array
) -> Params:
    """Returns parameters for `config.vocab` tokens: old rows bit for bit, others made anew.

    New rows of embedding and head are the mean of the old ones, so that none of them is likelier
    than an average token before it is trained (Hewitt 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html); or normal with `init_std`, as at the
    start of training.

    Args:
        params: Of the trained model.
        config: Of the model that is wanted.
        row_V: The old row of each new token; -1 if it has none.
        added: What new rows are.
        key: Chance for "normal".
    """
    embed_key, head_key = jax.random.split(key)
    embedding_VD = _rows(params["embed"]["embedding"], config, row_V, added, embed_key)
    arranged = params | {"embed": {"embedding": embedding_VD}}
    if not config.tie_embeddings:
        head_VD = _rows(params["head"]["kernel"].T, config, row_V, added, head_key)
        arranged["head"] = {"kernel": head_VD.T}
    return arranged


def _rows(
    old_VD: jax.Array, config: ModelConfig, row_V: np.ndarray, added: AddedRows, key: jax.Array
) -> jax.Array:
    """Returns the rows of all tokens."""
    if added == "mean":
        new_VD = jnp.mean(old_VD, axis=0, keepdims=True, dtype=jnp.float32)
    else:
        shape = (len(row_V), old_VD.shape[1])
        new_VD = config.init_std * jax.random.normal(key, shape, jnp.float32)
    kept_VD = old_VD[jnp.maximum(row_V, 0)]
    return jnp.where(row_V[:, None] >= 0, kept_VD, new_VD.astype(old_VD.dtype))
