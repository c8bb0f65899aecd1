"""The one public attention function; what it means is in reference.py.

B batch, T query tokens, S key tokens, N query heads, K key heads, H head size.
"""

import jax

from llama_jax.kernels.attention import chunked, reference
from llama_jax.kernels.attention.mask import Mask


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    impl: str,
    chunk: int = 128,
) -> jax.Array:
    """Returns softmax(q k' / sqrt(H)) v as [B, T, N, H]; rows with nothing to attend to are 0.

    `impl` is "reference" (the equation, all [T, S] scores at once) or "chunked" (tiles of `chunk`
    queries by `chunk` keys). The implementations differ by rounding only.
    """
    _check_shapes(q_BTNH, k_BSKH, v_BSKH, mask)
    if impl == "reference":
        return reference.attention(q_BTNH, k_BSKH, v_BSKH, mask)
    if impl == "chunked":
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; it must be at least 1.")
        return chunked.attention(chunk, q_BTNH, k_BSKH, v_BSKH, mask)
    raise ValueError(f"impl is {impl!r}; it must be one of 'reference', 'chunked'.")


def _check_shapes(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask) -> None:
    q, k, v = q_BTNH.shape, k_BSKH.shape, v_BSKH.shape
    if len(q) != 4 or len(k) != 4:
        raise ValueError(f"q is {q} and k is {k}; they must be [B, T, N, H] and [B, S, K, H].")
    if k != v:
        raise ValueError(f"k is {k} but v is {v}; both must be [B, S, K, H].")
    if q[0] != k[0] or q[3] != k[3]:
        raise ValueError(f"q is {q} but k is {k}; they must agree in batch and head size.")
    if q[2] % k[2]:
        raise ValueError(
            f"{q[2]} query heads cannot share {k[2]} key heads; N must be a multiple of K."
        )
    if not q_BTNH.dtype == k_BSKH.dtype == v_BSKH.dtype:
        raise ValueError(
            f"q, k, v are {q_BTNH.dtype}, {k_BSKH.dtype}, {v_BSKH.dtype}; they must be the same."
        )
    if mask.q_segment_BT is not None and mask.k_segment_BS is not None:
        said, want = (mask.q_segment_BT.shape, mask.k_segment_BS.shape), (q[:2], k[:2])
        if said != want:
            raise ValueError(
                f"mask segments are {said[0]} and {said[1]}; for these q and k they must be "
                f"{want[0]} and {want[1]}."
            )
