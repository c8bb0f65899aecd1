"""Cross-entropy without the [B, T, V] logits: a chunk of tokens at a time, forward and backward.

B batch, T tokens, D embed, V vocab, C tokens per row in one chunk (B * C tokens in all).

Rows are cut along T, so a batch split over devices stays split. Differentiated, the forward pass
makes the gradients of x and head while a chunk's logits are there, and the backward pass only
scales them: no chunk's logits are computed twice.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Sums = dict[str, jax.Array]


def chunked_cross_entropy(
    x_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    weight_BT: jax.Array,
    *,
    chunk: int,
    z_loss: float,
) -> tuple[jax.Array, Sums]:
    """Returns sum(weight * (log Z - logit[target] + z_loss * log(Z)^2)) and sums to report.

    The sums are "weight", "correct" (weight of the tokens whose target has the largest logit) and
    "z_loss" (its share of the loss). Differentiable in x and head; the sums and the weights
    carry no gradient. Logits are products in x's dtype summed in float32; all else is float32.
    """
    _check(x_BTD, head_DV, target_BT, chunk)
    weight_BT = lax.stop_gradient(weight_BT.astype(jnp.float32))
    loss, sums = _cross_entropy(chunk, z_loss, x_BTD, head_DV, target_BT, weight_BT)
    return loss, lax.stop_gradient(sums)


def chunked_token_loss(
    x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, *, chunk: int
) -> jax.Array:
    """Returns log Z - logit[target] of every token as f32 [B, T]; for evaluation, not training."""
    _check(x_BTD, head_DV, target_BT, chunk)
    B, T = target_BT.shape
    C, padded_T = _cuts(B, T, chunk)
    x_BTD, target_BT = _pad(x_BTD, padded_T), _pad(target_BT, padded_T)
    head_DV = head_DV.astype(x_BTD.dtype)

    def step(_, start):
        logit_BCV = _logits(_cut(x_BTD, start, C), head_DV)
        target_BC = _cut(target_BT, start, C)
        return None, jax.nn.logsumexp(logit_BCV, axis=-1) - _of_target(logit_BCV, target_BC)

    _, loss_nBC = lax.scan(step, None, jnp.arange(0, padded_T, C))
    return loss_nBC.swapaxes(0, 1).reshape(B, padded_T)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
    chunk: int,
    z_loss: float,
    x_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    weight_BT: jax.Array,
) -> tuple[jax.Array, Sums]:
    B, T = target_BT.shape
    C, padded_T = _cuts(B, T, chunk)
    x_BTD, target_BT = _pad(x_BTD, padded_T), _pad(target_BT, padded_T)
    padded_weight_BT = _pad(weight_BT, padded_T)
    head_DV = head_DV.astype(x_BTD.dtype)

    def step(totals, start):
        logit_BCV = _logits(_cut(x_BTD, start, C), head_DV)
        target_BC, weight_BC = _cut(target_BT, start, C), _cut(padded_weight_BT, start, C)
        new, _ = _chunk_sums(logit_BCV, target_BC, weight_BC, z_loss)
        return jax.tree.map(jnp.add, totals, new), None

    (loss, sums), _ = lax.scan(step, _zero_sums(), jnp.arange(0, padded_T, C))
    return loss, sums | {"weight": weight_BT.sum()}


def _forward(
    chunk: int,
    z_loss: float,
    x_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    weight_BT: jax.Array,
):
    B, T = target_BT.shape
    C, padded_T = _cuts(B, T, chunk)
    padded_x_BTD, target_BT = _pad(x_BTD, padded_T), _pad(target_BT, padded_T)
    padded_weight_BT = _pad(weight_BT, padded_T)
    compute_head_DV = head_DV.astype(x_BTD.dtype)

    def step(carry, start):
        totals, dx_BTD, dhead_DV = carry
        x_BCD = _cut(padded_x_BTD, start, C)
        target_BC, weight_BC = _cut(target_BT, start, C), _cut(padded_weight_BT, start, C)
        logit_BCV = _logits(x_BCD, compute_head_DV)
        new, log_z_BC = _chunk_sums(logit_BCV, target_BC, weight_BC, z_loss)
        dlogit_BCV = _dlogits(logit_BCV, log_z_BC, target_BC, weight_BC, z_loss)
        dlogit_BCV = dlogit_BCV.astype(x_BCD.dtype)
        dx_BCD = jnp.einsum(
            "BCV,DV->BCD", dlogit_BCV, compute_head_DV, preferred_element_type=jnp.float32
        )
        add_DV = jnp.einsum("BCD,BCV->DV", x_BCD, dlogit_BCV, preferred_element_type=jnp.float32)
        dx_BTD = _put(dx_BTD, dx_BCD, start)
        return (jax.tree.map(jnp.add, totals, new), dx_BTD, dhead_DV + add_DV), None

    zeros = _zero_sums(), jnp.zeros_like(padded_x_BTD), jnp.zeros(head_DV.shape, jnp.float32)
    ((loss, sums), dx_BTD, dhead_DV), _ = lax.scan(step, zeros, jnp.arange(0, padded_T, C))
    out = loss, sums | {"weight": weight_BT.sum()}
    return out, (dx_BTD[:, :T], dhead_DV.astype(head_DV.dtype), weight_BT)


def _backward(chunk: int, z_loss: float, saved, grads):
    dx_BTD, dhead_DV, weight_BT = saved
    grad, _ = grads
    # In float32: a bfloat16 1 / tokens would bend every gradient by up to 0.4%.
    dx_BTD, dhead_DV = ((d.astype(jnp.float32) * grad).astype(d.dtype) for d in (dx_BTD, dhead_DV))
    return dx_BTD, dhead_DV, None, jnp.zeros_like(weight_BT)


_cross_entropy.defvjp(_forward, _backward)


def _chunk_sums(
    logit_BCV: jax.Array, target_BC: jax.Array, weight_BC: jax.Array, z_loss: float
) -> tuple[tuple[jax.Array, Sums], jax.Array]:
    """Returns (loss, sums) of one chunk, and log Z [B, C]."""
    max_BC = logit_BCV.max(axis=-1)
    log_z_BC = max_BC + jnp.log(jnp.exp(logit_BCV - max_BC[..., None]).sum(axis=-1))
    target_logit_BC = _of_target(logit_BCV, target_BC)
    z_loss_BC = z_loss * weight_BC * log_z_BC**2
    loss = (weight_BC * (log_z_BC - target_logit_BC) + z_loss_BC).sum()
    correct = jnp.where(target_logit_BC == max_BC, weight_BC, 0.0).sum()
    return (loss, {"correct": correct, "z_loss": z_loss_BC.sum()}), log_z_BC


def _dlogits(
    logit_BCV: jax.Array,
    log_z_BC: jax.Array,
    target_BC: jax.Array,
    weight_BC: jax.Array,
    z_loss: float,
) -> jax.Array:
    """Returns weight * ((1 + 2 z_loss log Z) softmax(logit) - onehot(target))."""
    probability_BCV = jnp.exp(logit_BCV - log_z_BC[..., None])
    pull_BC = weight_BC * (1 + 2 * z_loss * log_z_BC)
    hit_BCV = jnp.arange(logit_BCV.shape[-1])[None, None] == target_BC[..., None]
    return probability_BCV * pull_BC[..., None] - jnp.where(hit_BCV, weight_BC[..., None], 0.0)


def _logits(x_BCD: jax.Array, head_DV: jax.Array) -> jax.Array:
    return jnp.einsum("BCD,DV->BCV", x_BCD, head_DV, preferred_element_type=jnp.float32)


def _of_target(logit_BCV: jax.Array, target_BC: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logit_BCV, target_BC[..., None], axis=-1)[..., 0]


def _zero_sums() -> tuple[jax.Array, Sums]:
    zero = jnp.zeros((), jnp.float32)
    return zero, {"correct": zero, "z_loss": zero}


def _cuts(B: int, T: int, chunk: int) -> tuple[int, int]:
    """Returns C, so that B * C is at most about `chunk`, and T filled up to a multiple of C."""
    steps = min(T, -(-B * T // chunk))
    C = -(-T // steps)
    return C, -(-T // C) * C


def _pad(a_BT: jax.Array, T: int) -> jax.Array:
    return jnp.pad(a_BT, [(0, 0), (0, T - a_BT.shape[1])] + [(0, 0)] * (a_BT.ndim - 2))


def _cut(a_BT: jax.Array, start: jax.Array, C: int) -> jax.Array:
    bits = lax.dynamic_slice_in_dim(_bits(a_BT), start, C, 1)
    return lax.bitcast_convert_type(bits, a_BT.dtype)


def _put(a_BT: jax.Array, part_BC: jax.Array, start: jax.Array) -> jax.Array:
    part_BC = _bits(part_BC.astype(a_BT.dtype))
    bits = lax.dynamic_update_slice_in_dim(_bits(a_BT), part_BC, start, 1)
    return lax.bitcast_convert_type(bits, a_BT.dtype)


def _bits(a: jax.Array) -> jax.Array:
    """Returns 16-bit floats as integers of the same bits, to be sliced.

    XLA for CPUs slices bfloat16 by converting the whole array to float32 and back; elsewhere this
    is free.
    """
    return lax.bitcast_convert_type(a, jnp.uint16) if a.dtype.itemsize == 2 else a


def _check(x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, chunk: int) -> None:
    if x_BTD.shape[:2] != target_BT.shape or x_BTD.shape[2] != head_DV.shape[0]:
        raise ValueError(
            f"x is {x_BTD.shape}, head {head_DV.shape}, target {target_BT.shape}; they must be "
            "[B, T, D], [D, V], [B, T]."
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1.")
