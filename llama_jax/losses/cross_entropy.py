"""Cross-entropy without the [B, T, V] logits: a chunk of tokens at a time, forward and backward.

B batch, T tokens, D embed, V vocab, C tokens per row in one chunk (B * C tokens in all).

Rows are cut along T. Differentiated, the forward pass makes the gradients of x and head while a
chunk's logits are there, and the backward pass only scales them: no chunk's logits are computed
twice. On a mesh every device does so with its own tokens and its own part of the vocabulary: it
fetches its columns of the head once, the parts of a token's softmax meet in two numbers per token,
and the gradient of the head is summed once, after the last chunk.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from llama_jax.sharding.layout import Layout
from llama_jax.sharding.weights import fetch, psum, sum_gradient

HEAD = ("embed", "vocab")

Sums = dict[str, jax.Array]


def chunked_cross_entropy(
    x_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    weight_BT: jax.Array,
    *,
    chunk: int,
    z_loss: float,
    layout: Layout | None = None,
    frozen_head: bool = False,
) -> tuple[jax.Array, Sums]:
    """Returns sum(weight * (log Z - logit[target] + z_loss * log(Z)^2)) and sums to report.

    The sums are "weight", "correct" (weight of the tokens whose target has the largest logit) and
    "z_loss" (its share of the loss). Differentiable in x and head; the sums and the weights
    carry no gradient. Logits are products in x's dtype summed in float32; all else is float32.
    `chunk` counts tokens of one device. A frozen head has no gradient, and none is computed.
    """
    _check(x_BTD, head_DV, target_BT, chunk)
    weight_BT = lax.stop_gradient(weight_BT.astype(jnp.float32))
    how = _How(chunk, z_loss, layout, frozen_head)
    loss, sums = _cross_entropy(how, x_BTD, head_DV, target_BT, weight_BT)
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
        target_logit_BC = jnp.take_along_axis(logit_BCV, target_BC[..., None], axis=-1)[..., 0]
        return None, jax.nn.logsumexp(logit_BCV, axis=-1) - target_logit_BC

    _, loss_nBC = lax.scan(step, None, jnp.arange(0, padded_T, C))
    return loss_nBC.swapaxes(0, 1).reshape(B, padded_T)[:, :T]


class _How(NamedTuple):
    chunk: int
    z_loss: float
    layout: Layout | None
    frozen_head: bool

    @property
    def vocab_axes(self) -> tuple[str, ...]:
        return () if self.layout is None else self.layout.axes("vocab")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    how: _How, x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, weight_BT: jax.Array
) -> tuple[jax.Array, Sums]:
    return _on_mesh(how, _sums_of_chunks, 0)(x_BTD, head_DV, target_BT, weight_BT)


def _forward(
    how: _How, x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, weight_BT: jax.Array
):
    dtype = head_DV.dtype
    compute = _on_mesh(how, _sums_and_gradients, 2)
    out, dx_BTD, dhead_DV = compute(x_BTD, head_DV, target_BT, weight_BT)
    dhead_DV = None if dhead_DV is None else dhead_DV.astype(dtype)
    return out, (dx_BTD, dhead_DV, weight_BT)


def _backward(how: _How, saved, grads):
    dx_BTD, dhead_DV, weight_BT = saved
    grad, _ = grads
    # In float32: a bfloat16 1 / tokens would bend every gradient by up to 0.4%.
    dx_BTD, dhead_DV = jax.tree.map(
        lambda d: (d.astype(jnp.float32) * grad).astype(d.dtype), (dx_BTD, dhead_DV)
    )
    return dx_BTD, dhead_DV, None, jnp.zeros_like(weight_BT)


_cross_entropy.defvjp(_forward, _backward)


def _on_mesh(how: _How, compute: Callable, gradients: int) -> Callable:
    """Returns `compute` for whole arrays: run by each device on its part of them."""
    layout = how.layout
    run: Callable

    def cast(x_BTD, head_DV, target_BT, weight_BT):
        # Before it is fetched from other devices: half as many bytes in bfloat16.
        return run(x_BTD, head_DV.astype(x_BTD.dtype), target_BT, weight_BT)

    if layout is None:
        run = functools.partial(compute, how)
        return cast
    x, tokens = layout.spec("batch", "sequence", None), layout.spec("batch", "sequence")
    head = layout.spec(*HEAD)
    outputs = ((layout.spec(), layout.spec()), x, None if how.frozen_head else head)

    def local(x_BTD, head_DV, target_BT, weight_BT):
        return compute(how, x_BTD, fetch(layout, HEAD, head_DV), target_BT, weight_BT)

    run = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(x, head, tokens, tokens),
        out_specs=outputs if gradients else outputs[0],
        check_vma=False,  # The gradients are made here, not derived from this function.
    )
    return cast


def _sums_of_chunks(
    how: _How, x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, weight_BT: jax.Array
) -> tuple[jax.Array, Sums]:
    """Returns the loss and the sums over all devices' tokens."""
    B, T = target_BT.shape
    C, padded_T = _cuts(B, T, how.chunk)
    x_BTD, target_BT = _pad(x_BTD, padded_T), _pad(target_BT, padded_T)
    weight_BT = _pad(weight_BT, padded_T)

    def step(totals, start):
        logit_BCV = _logits(_cut(x_BTD, start, C), head_DV)
        target_BC, weight_BC = _cut(target_BT, start, C), _cut(weight_BT, start, C)
        new, _ = _chunk_sums(how, logit_BCV, target_BC, weight_BC)
        return jax.tree.map(jnp.add, totals, new), None

    totals, _ = lax.scan(step, _zero_sums(), jnp.arange(0, padded_T, C))
    return _finish(how, totals, weight_BT)


def _sums_and_gradients(
    how: _How, x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, weight_BT: jax.Array
):
    """Returns the sums, dx of this device's tokens, and its part of dhead over all tokens.

    None stands for the gradient of a frozen head.
    """
    B, T = target_BT.shape
    C, padded_T = _cuts(B, T, how.chunk)
    x_BTD, target_BT = _pad(x_BTD, padded_T), _pad(target_BT, padded_T)
    weight_BT = _pad(weight_BT, padded_T)

    def step(carry, start):
        totals, dx_BTD, dhead_DV = carry
        x_BCD = _cut(x_BTD, start, C)
        target_BC, weight_BC = _cut(target_BT, start, C), _cut(weight_BT, start, C)
        logit_BCV = _logits(x_BCD, head_DV)
        new, log_z_BC = _chunk_sums(how, logit_BCV, target_BC, weight_BC)
        dlogit_BCV = _dlogits(how, logit_BCV, log_z_BC, target_BC, weight_BC)
        dlogit_BCV = dlogit_BCV.astype(x_BCD.dtype)
        dx_BCD = jnp.einsum("BCV,DV->BCD", dlogit_BCV, head_DV, preferred_element_type=jnp.float32)
        if not how.frozen_head:
            dhead_DV += jnp.einsum(
                "BCD,BCV->DV", x_BCD, dlogit_BCV, preferred_element_type=jnp.float32
            )
        dx_BTD = _put(dx_BTD, psum(dx_BCD.astype(x_BCD.dtype), how.vocab_axes), start)
        return (jax.tree.map(jnp.add, totals, new), dx_BTD, dhead_DV), None

    no_dhead_DV = None if how.frozen_head else jnp.zeros(head_DV.shape, jnp.float32)
    zeros = _zero_sums(), jnp.zeros_like(x_BTD), no_dhead_DV
    (totals, dx_BTD, dhead_DV), _ = lax.scan(step, zeros, jnp.arange(0, padded_T, C))
    if how.layout is not None and dhead_DV is not None:
        dhead_DV = sum_gradient(how.layout, HEAD, dhead_DV.astype(head_DV.dtype))
    # Now: the whole head in float32 is not to be held until the optimizer needs its gradient.
    dx_BTD, dhead_DV = lax.optimization_barrier((dx_BTD[:, :T], dhead_DV))
    return _finish(how, totals, weight_BT), dx_BTD, dhead_DV


def _chunk_sums(
    how: _How, logit_BCV: jax.Array, target_BC: jax.Array, weight_BC: jax.Array
) -> tuple[tuple[jax.Array, Sums], jax.Array]:
    """Returns (loss, sums) of one chunk, and log Z [B, C]."""
    axes = how.vocab_axes
    max_BC = _pmax(logit_BCV.max(axis=-1), axes)
    log_z_BC = max_BC + jnp.log(psum(jnp.exp(logit_BCV - max_BC[..., None]).sum(axis=-1), axes))
    target_logit_BC = psum(_of_target(how, logit_BCV, target_BC), axes)
    z_loss_BC = how.z_loss * weight_BC * log_z_BC**2
    loss = (weight_BC * (log_z_BC - target_logit_BC) + z_loss_BC).sum()
    correct = jnp.where(target_logit_BC == max_BC, weight_BC, 0.0).sum()
    return (loss, {"correct": correct, "z_loss": z_loss_BC.sum()}), log_z_BC


def _dlogits(
    how: _How,
    logit_BCV: jax.Array,
    log_z_BC: jax.Array,
    target_BC: jax.Array,
    weight_BC: jax.Array,
) -> jax.Array:
    """Returns weight * ((1 + 2 z_loss log Z) softmax(logit) - onehot(target))."""
    probability_BCV = jnp.exp(logit_BCV - log_z_BC[..., None])
    pull_BC = weight_BC * (1 + 2 * how.z_loss * log_z_BC)
    hit_BCV = _vocabulary(how, logit_BCV)[None, None] == target_BC[..., None]
    return probability_BCV * pull_BC[..., None] - jnp.where(hit_BCV, weight_BC[..., None], 0.0)


def _of_target(how: _How, logit_BCV: jax.Array, target_BC: jax.Array) -> jax.Array:
    """Returns the logit of each target, 0 where another device has it."""
    V = logit_BCV.shape[-1]
    column_BC = target_BC - _vocabulary(how, logit_BCV)[0]
    here_BC = (column_BC >= 0) & (column_BC < V)
    column_BC = jnp.where(here_BC, column_BC, 0)
    found_BC = jnp.take_along_axis(logit_BCV, column_BC[..., None], axis=-1)[..., 0]
    return jnp.where(here_BC, found_BC, 0.0)


def _vocabulary(how: _How, logit_BCV: jax.Array) -> jax.Array:
    """Returns the ids i32 [V] of this device's columns."""
    V = logit_BCV.shape[-1]
    first = lax.axis_index(how.vocab_axes) * V if how.vocab_axes else 0
    return jnp.arange(V) + first


def _finish(how: _How, totals: tuple[jax.Array, Sums], weight_BT: jax.Array):
    """Returns (loss, sums) over all devices."""
    loss, sums = totals
    out = loss, sums | {"weight": weight_BT.sum()}
    if how.layout is None:
        return out
    axes = how.layout.token_axes
    return jax.tree.map(lambda total: psum(total, axes), out)


def _pmax(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return lax.pmax(x, axes) if axes else x


def _logits(x_BCD: jax.Array, head_DV: jax.Array) -> jax.Array:
    return jnp.einsum("BCD,DV->BCV", x_BCD, head_DV, preferred_element_type=jnp.float32)


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
    def cut(a_BT):
        return lax.dynamic_slice_in_dim(a_BT, start, C, 1)

    return _as_bits(cut, a_BT)


def _put(a_BT: jax.Array, part_BC: jax.Array, start: jax.Array) -> jax.Array:
    def put(a_BT, part_BC):
        return lax.dynamic_update_slice_in_dim(a_BT, part_BC, start, 1)

    return _as_bits(put, a_BT, part_BC.astype(a_BT.dtype))


def _as_bits(move: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Returns what `move` does with arrays of one dtype; on CPUs with 16-bit floats as integers.

    XLA for CPUs slices bfloat16 by converting the whole array to float32 and back. On TPUs the
    integers would be copies.
    """
    dtype = arrays[0].dtype
    if dtype.itemsize != 2:
        return move(*arrays)

    def bits(*arrays):
        moved = move(*(lax.bitcast_convert_type(a, jnp.uint16) for a in arrays))
        return lax.bitcast_convert_type(moved, dtype)

    return lax.platform_dependent(*arrays, cpu=bits, default=move)


def _check(x_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, chunk: int) -> None:
    if x_BTD.shape[:2] != target_BT.shape or x_BTD.shape[2] != head_DV.shape[0]:
        raise ValueError(
            f"x is {x_BTD.shape}, head {head_DV.shape}, target {target_BT.shape}; they must be "
            "[B, T, D], [D, V], [B, T]."
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1.")
