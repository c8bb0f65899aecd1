"""Attention of a sequence that is split over devices: keys and values go round in a ring.

B batch, T this device's tokens, N query heads, K key heads, G = N / K, H head size.

At step r device p holds the keys of device p - r, adds what its queries get from them, and passes
them on (Liu et al. 2023, https://arxiv.org/abs/2310.01889):

    step      0      1      2      3
    device 0  k0     k3     k2     k1
    device 1  k1     k0     k3     k2
    device 2  k2     k1     k0     k3
    device 3  k3     k2     k1     k0

A part of the softmax has its own output and log-sum-exp, and two parts merge exactly. In the
backward pass the gradients of keys and values go round with them, in float32. With tokens in zigzag
order (sharding/zigzag.py) every step has the same work on every device. Runs inside shard_map; the
mask's segments and indices are those of this device's tokens.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from llama_jax.kernels.attention import gather
from llama_jax.kernels.attention.api import Parts, Shape
from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.softmax import LOWEST_MAXIMUM

Axis = tuple[str, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attention(
    axis: Axis,
    parts: Parts,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    mask: Mask,
) -> jax.Array:
    """Returns this device's part of the attention over the whole sequence, [B, T, N, H]."""
    return _forward(axis, parts, q_BTNH, k_BTKH, v_BTKH, mask)[0]


def _forward(axis: Axis, parts: Parts, q_BTNH, k_BTKH, v_BTKH, mask: Mask):
    def step(carry, plan):
        sums, keys = carry
        next_keys = _pass_on(axis, keys)  # Under way while this step computes.
        return (add(sums, keys, plan), next_keys), None

    def add(sums, keys, plan):
        k, v, key_mask = keys
        return _merge(sums, parts.forward(q_BTNH, k, v, _of_step(mask, key_mask, plan)))

    B, T, N, _ = q_BTNH.shape
    K = k_BTKH.shape[2]
    zeros = (
        jnp.zeros(q_BTNH.shape, jnp.float32),
        jnp.full((B, K, N // K, T), LOWEST_MAXIMUM, jnp.float32),
    )
    keys = (k_BTKH, v_BTKH, _keys_of(mask))
    plans, last = _steps(mask.plan)
    carry, _ = lax.scan(step, (zeros, keys), plans, length=lax.axis_size(axis) - 1)
    out_BTNH, log_sum_BKGT = add(*carry, last)
    out_BTNH = checkpoint_name(out_BTNH.astype(q_BTNH.dtype), "attention_out")
    log_sum_BKGT = checkpoint_name(log_sum_BKGT, "attention_lse")
    return out_BTNH, (q_BTNH, k_BTKH, v_BTKH, mask, out_BTNH, log_sum_BKGT)


def _backward(axis: Axis, parts: Parts, saved, grad_BTNH: jax.Array):
    q_BTNH, k_BTKH, v_BTKH, mask, out_BTNH, log_sum_BKGT = saved

    def part(keys, plan):
        k, v, key_mask = keys
        whole = out_BTNH, log_sum_BKGT, grad_BTNH
        return parts.backward(q_BTNH, k, v, _of_step(mask, key_mask, plan), *whole)

    def step(carry, plan):
        dq_BTNH, dkv, keys = carry
        next_keys = _pass_on(axis, keys)  # Under way while this step computes.
        more_dq_BTNH, *more_dkv = part(keys, plan)
        dkv = _pass_on(axis, jax.tree.map(jnp.add, dkv, tuple(more_dkv)))
        return (dq_BTNH + more_dq_BTNH, dkv, next_keys), None

    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), (q_BTNH, (k_BTKH, v_BTKH)))
    carry = (*zeros, (k_BTKH, v_BTKH, _keys_of(mask)))
    plans, last = _steps(mask.plan)
    (dq_BTNH, dkv, keys), _ = lax.scan(step, carry, plans, length=lax.axis_size(axis) - 1)
    # The last keys stay, and one more pass brings every gradient home.
    more_dq_BTNH, *more_dkv = part(keys, last)
    dk_BTKH, dv_BTKH = _pass_on(axis, jax.tree.map(jnp.add, dkv, tuple(more_dkv)))
    dtype = q_BTNH.dtype
    return (
        (dq_BTNH + more_dq_BTNH).astype(dtype),
        dk_BTKH.astype(dtype),
        dv_BTKH.astype(dtype),
        None,
    )


attention.defvjp(_forward, _backward)


def prepare(mask: Mask, shape: Shape, *, axis: Axis, parts: Parts) -> Mask:
    """Returns the mask with a plan for every step, stacked; `shape` is one device's part."""
    if parts.kernels is None:
        return mask
    whole, here, size = gather.whole_mask(mask, axis), lax.axis_index(axis), lax.axis_size(axis)

    def plan(step: int):
        start = (here - step) % size * shape.S
        keys = jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, start, shape.S, x.ndim - 1), _keys_of(whole)
        )
        return parts.prepare(_of_step(mask, keys, None), shape).plan

    plans = [plan(step) for step in range(size)]
    return dataclasses.replace(mask, plan=jax.tree.map(lambda *steps: jnp.stack(steps), *plans))


def _steps(plans: Any) -> tuple[Any, Any]:
    """Returns the plans of all steps but the last, and that of the last."""
    return jax.tree.map(lambda x: x[:-1], plans), jax.tree.map(lambda x: x[-1], plans)


def _pass_on(axis: Axis, arrays: Any) -> Any:
    """Returns what the device before this one holds."""
    size = lax.axis_size(axis)
    pairs = [(device, (device + 1) % size) for device in range(size)]
    return jax.tree.map(lambda a: lax.ppermute(a, axis, pairs), arrays)


def _merge(one, other):
    """Returns (output, log-sum-exp) of two parts of one softmax."""
    out_BTNH, log_sum_BKGT = one
    more_BTNH, more_log_sum_BKGT = other
    both_BKGT = jnp.logaddexp(log_sum_BKGT, more_log_sum_BKGT)
    share_BTN1 = _tokens_first(jnp.exp(log_sum_BKGT - both_BKGT))
    more_share_BTN1 = _tokens_first(jnp.exp(more_log_sum_BKGT - both_BKGT))
    return out_BTNH * share_BTN1 + more_BTNH * more_share_BTN1, both_BKGT


def _tokens_first(share_BKGT: jax.Array) -> jax.Array:
    B, K, G, T = share_BKGT.shape
    return share_BKGT.transpose(0, 3, 1, 2).reshape(B, T, K * G, 1)


def _keys_of(mask: Mask) -> tuple[jax.Array | None, jax.Array | None]:
    return mask.k_segment_BS, mask.k_index_S


def _of_step(mask: Mask, keys: tuple[jax.Array | None, jax.Array | None], plan: Any) -> Mask:
    return dataclasses.replace(mask, k_segment_BS=keys[0], k_index_S=keys[1], plan=plan)
