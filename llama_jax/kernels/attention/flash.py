"""The functions that a pair of kernels for an accelerator makes, one forward and one backward.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
"""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.softmax import LN2, LOG2E, LOWEST_MAXIMUM


class Forward(Protocol):
    """A forward kernel."""

    def __call__(
        self, setup: Any, q_BTNH, k_BSKH, v_BSKH, mask: Mask, dtype: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the output [B, T, N, H], and log2(sum(2^score)) f32 [B, N, T] in base 2.

        The output is in `dtype`, or in that of q. A row that sees no key has 0 and LOWEST_MAXIMUM.
        `mask.plan` is of `schedule`.
        """


class Backward(Protocol):
    """A backward kernel."""

    def __call__(
        self,
        setup: Any,
        q_BTNH,
        out_BTNH,
        log_sum_BNT,
        grad_BTNH,
        k_BSKH,
        v_BSKH,
        mask: Mask,
        dtype: Any = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what these keys add to the gradients of q, k and v, in `dtype` or that of q.

        `out_BTNH` and `log_sum_BNT` (base 2) belong to all keys of the row, of which these may be a
        part.
        """


class Schedule(Protocol):
    """What both kernels work out of a mask before they see q, k and v."""

    def __call__(self, mask: Mask, setup: Any, B: int, T: int, S: int) -> Any:
        """Returns a pytree with the static fields `setup` and `sizes` = (B, T, S)."""


class Kernels(NamedTuple):
    """Two kernels that belong together, for one kind of accelerator."""

    forward: Forward
    backward: Backward
    schedule: Schedule


def attention(
    kernels: Kernels,
    setup: Any,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
) -> jax.Array:
    """Returns what reference.attention returns. `mask.plan` is that of `kernels.schedule`."""
    arrays = _without_strays(q_BTNH, k_BSKH, v_BSKH, mask)
    return _attention(kernels, setup, *arrays, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(kernels: Kernels, setup: Any, q_BTNH, k_BSKH, v_BSKH, mask: Mask) -> jax.Array:
    return _forward(kernels, setup, q_BTNH, k_BSKH, v_BSKH, mask)[0]


def _forward(kernels: Kernels, setup: Any, q_BTNH, k_BSKH, v_BSKH, mask: Mask):
    out_BTNH, log_sum_BNT = kernels.forward(setup, q_BTNH, k_BSKH, v_BSKH, mask)
    # Named, so that a remat policy can keep both and the backward pass skips this kernel.
    out_BTNH = checkpoint_name(out_BTNH, "attention_out")
    log_sum_BNT = checkpoint_name(log_sum_BNT, "attention_lse")
    return out_BTNH, (q_BTNH, k_BSKH, v_BSKH, mask, out_BTNH, log_sum_BNT)


def _backward(kernels: Kernels, setup: Any, saved, grad_BTNH: jax.Array):
    q_BTNH, k_BSKH, v_BSKH, mask, out_BTNH, log_sum_BNT = saved
    q_BTNH, grad_BTNH = _queries_that_see(q_BTNH, grad_BTNH, log_sum_BNT, mask)
    queries = q_BTNH, out_BTNH, log_sum_BNT, grad_BTNH
    return *kernels.backward(setup, *queries, k_BSKH, v_BSKH, mask), None


_attention.defvjp(_forward, _backward)


def part_forward(
    kernels: Kernels,
    setup: Any,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
) -> tuple[jax.Array, jax.Array]:
    """Returns what chunked.forward returns: output and log-sum-exp of a part of the keys."""
    arrays = _without_strays(q_BTNH, k_BSKH, v_BSKH, mask)
    out_BTNH, log_sum_BNT = kernels.forward(setup, *arrays, mask, dtype=jnp.float32)
    (B, T, N, _), K = q_BTNH.shape, k_BSKH.shape[2]
    # Not scaled where no key was seen: two such parts must merge as equals to the last bit.
    is_empty_BNT = log_sum_BNT <= LOWEST_MAXIMUM
    log_sum_BNT = jnp.where(is_empty_BNT, LOWEST_MAXIMUM, log_sum_BNT * LN2)
    return out_BTNH, log_sum_BNT.reshape(B, K, N // K, T)


def part_backward(
    kernels: Kernels,
    setup: Any,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    out_BTNH: jax.Array,
    log_sum_BKGT: jax.Array,
    grad_BTNH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what chunked.backward returns: what a part of the keys adds to the gradients."""
    q_BTNH, k_BSKH, v_BSKH = _without_strays(q_BTNH, k_BSKH, v_BSKH, mask)
    B, T, N, _ = q_BTNH.shape
    log_sum_BNT = (log_sum_BKGT * LOG2E).reshape(B, N, T)
    q_BTNH, grad_BTNH = _queries_that_see(q_BTNH, grad_BTNH, log_sum_BNT, mask)
    queries = q_BTNH, out_BTNH, log_sum_BNT, grad_BTNH
    return kernels.backward(setup, *queries, k_BSKH, v_BSKH, mask, dtype=jnp.float32)


# 0 x NaN is NaN: what nobody looks at, where anything may stand, must not reach a product. XLA
# writes the zeros where the arrays are made.


def _without_strays(q_BTNH, k_BSKH, v_BSKH, mask: Mask) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the three with zeros for padding, and for keys that no query sees.

    Known are documents below and above those of the queries, and what causality, window and offset
    hide from all of them.
    """
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    if mask.q_segment_BT is not None and mask.k_segment_BS is not None:
        above_all = jnp.iinfo(jnp.int32).max
        first_B1 = jnp.where(mask.q_segment_BT == 0, above_all, mask.q_segment_BT).min(1)[:, None]
        last_B1 = mask.q_segment_BT.max(1)[:, None]
        seen_BS = (first_B1 <= mask.k_segment_BS) & (mask.k_segment_BS <= last_B1)
        k_BSKH, v_BSKH = (_kept(x, seen_BS & (mask.k_segment_BS != 0)) for x in (k_BSKH, v_BSKH))
        q_BTNH = _kept(q_BTNH, mask.q_segment_BT != 0)
    if not mask.causal or mask.q_index_T is not None or _all_keys_are_seen(mask, T, S):
        return q_BTNH, k_BSKH, v_BSKH
    index_T, index_S = mask.indices(T, S)
    seen_S = index_S <= index_T[-1]
    if mask.window is not None:
        seen_S &= index_S > index_T[0] - mask.window
    return q_BTNH, _kept(k_BSKH, seen_S[None]), _kept(v_BSKH, seen_S[None])


def _all_keys_are_seen(mask: Mask, T: int, S: int) -> bool:
    """Returns whether the static parts of a causal mask alone say so, as in training."""
    if not isinstance(mask.q_offset, int) or mask.q_offset + T < S:
        return False
    return mask.window is None or mask.q_offset < mask.window


def _queries_that_see(q_BTNH, grad_BTNH, log_sum_BNT, mask: Mask) -> tuple[jax.Array, jax.Array]:
    """Returns both with zeros for queries that see no key."""
    sees_BT = (log_sum_BNT > LOWEST_MAXIMUM).any(axis=1)
    is_inside = isinstance(mask.q_offset, int) and mask.q_offset >= 0
    packed = mask.q_segment_BT is not None
    if (mask.causal and not is_inside) or (packed and not mask.causal):
        return _kept(q_BTNH, sees_BT), _kept(grad_BTNH, sees_BT)
    # Here every query sees itself at least, but for padding, which is zero already.
    return q_BTNH, _kept(grad_BTNH, sees_BT) if packed else grad_BTNH


def _kept(x_BTNH: jax.Array, kept_BT: jax.Array) -> jax.Array:
    """Returns the vectors of tokens, zeros for those not kept."""
    return jnp.where(kept_BT[..., None, None], x_BTNH, jnp.zeros_like(x_BTNH))
