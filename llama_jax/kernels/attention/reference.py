"""Attention as the equations say it. Every kernel is tested against this file.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
"""

import jax
import jax.numpy as jnp

from llama_jax.kernels.attention.mask import Mask


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> jax.Array:
    """Returns softmax(q k' / sqrt(H)) v as [B, T, N, H]; rows with nothing to attend to are 0."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    score_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    mask_B11TS = mask.dense(B, T, S)[:, None, None]
    weight_BKGTS = jax.nn.softmax(score_BKGTS * H**-0.5, axis=-1, where=mask_B11TS)
    weight_BKGTS = weight_BKGTS.astype(v_BSKH.dtype)
    out_BTKGH = jnp.einsum(
        "BKGTS,BSKH->BTKGH", weight_BKGTS, v_BSKH, preferred_element_type=jnp.float32
    )
    return out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)
