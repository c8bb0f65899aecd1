"""Attention tile by tile: the [T, S] scores never exist, forward or backward.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
One tile is P queries by C keys. The forward pass is the online softmax of
https://arxiv.org/abs/1805.02867, the backward pass computes each tile's scores again as in
https://arxiv.org/abs/2205.14135. Inside, heads come before tokens: that layout multiplies
1.2 to 4 times faster on a CPU (kernels/README.md).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.softmax import HIDDEN, LOWEST_MAXIMUM


class Tiling(NamedTuple):
    """How [T, S] is cut: the size of a tile, and where the tiles to compute start."""

    P: int
    C: int
    starts: np.ndarray  # i32 [tiles, 2]: first query, first key; tiles nobody sees left out
    T: int  # a multiple of P
    S: int  # a multiple of C


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    chunk: int, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask
) -> jax.Array:
    """Returns what reference.attention returns, holding chunk * chunk scores per head at a time."""
    return _forward(chunk, q_BTNH, k_BSKH, v_BSKH, mask)[0]


def _forward(chunk: int, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask):
    out_BTNH, log_sum_BKGT = forward(chunk, q_BTNH, k_BSKH, v_BSKH, mask)
    # Rounded now: XLA would hold the float32 and round it at each use.
    out_BTNH = lax.optimization_barrier(out_BTNH.astype(q_BTNH.dtype))
    # Named, so that a remat policy can keep both and the backward pass skips this function.
    out_BTNH = checkpoint_name(out_BTNH, "attention_out")
    log_sum_BKGT = checkpoint_name(log_sum_BKGT, "attention_lse")
    return out_BTNH, (q_BTNH, k_BSKH, v_BSKH, mask, out_BTNH, log_sum_BKGT)


def _backward(chunk: int, saved, grad_BTNH: jax.Array):
    q_BTNH, k_BSKH, v_BSKH, mask, out_BTNH, log_sum_BKGT = saved
    inputs = q_BTNH, k_BSKH, v_BSKH
    grads = backward(chunk, *inputs, mask, out_BTNH, log_sum_BKGT, grad_BTNH)
    return *(grad.astype(x.dtype) for grad, x in zip(grads, inputs, strict=True)), None


attention.defvjp(_forward, _backward)


def tiling(chunk: int, T: int, S: int, mask: Mask) -> Tiling:
    """Returns tiles of at most chunk**2 scores; one query (decoding) meets chunk**2 keys."""
    P = _even(T, chunk)
    C = _even(S, max(chunk, chunk * chunk // P))
    starts = [
        (q_start, k_start)
        for q_start in range(0, T, P)
        for k_start in range(0, S, C)
        if not mask.hides(q_start, k_start, P, C)
    ]
    return Tiling(P, C, np.array(starts, np.int32).reshape(-1, 2), -(-T // P) * P, -(-S // C) * C)


def _even(length: int, most: int) -> int:
    """Returns the size that cuts `length` into as few equal parts as sizes up to `most` allow."""
    parts = -(-length // most)
    return -(-length // parts)


def forward(
    chunk: int, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: Mask
) -> tuple[jax.Array, jax.Array]:
    """Returns the output f32 [B, T, N, H] and log(sum(exp(score))) f32 [B, K, G, T].

    A row that sees no key has output 0 and LOWEST_MAXIMUM.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    tiles = tiling(chunk, T, S, mask)
    q_BKGTH, k_BKSH, v_BKSH = _heads_first(tiles, q_BTNH, k_BSKH, v_BSKH)
    padded_mask = mask.pad(tiles.T, tiles.S)

    def tile(carry, start):
        q_start, k_start = start

        def add(old):
            old_out_BKGPH, old_max_BKGP, old_sum_BKGP = old
            q_BKGPH = _cut(q_BKGTH, q_start, tiles.P, -2)
            k_BKCH = _cut(k_BKSH, k_start, tiles.C, -2)
            v_BKCH = _cut(v_BKSH, k_start, tiles.C, -2)
            score_BKGPC = _scores(q_BKGPH, k_BKCH, padded_mask, start, S)
            max_BKGP = jnp.maximum(old_max_BKGP, score_BKGPC.max(-1))
            weight_BKGPC = jnp.exp(score_BKGPC - max_BKGP[..., None])
            shrink_BKGP = jnp.exp(old_max_BKGP - max_BKGP)
            sum_BKGP = old_sum_BKGP * shrink_BKGP + weight_BKGPC.sum(-1)
            add_BKGPH = _product("BKGPC,BKCH->BKGPH", weight_BKGPC.astype(v_BKCH.dtype), v_BKCH)
            return old_out_BKGPH * shrink_BKGP[..., None] + add_BKGPH, max_BKGP, sum_BKGP

        old = tuple(_cut(a, q_start, tiles.P, dim) for a, dim in zip(carry, dims, strict=True))
        new = _where_seen(padded_mask, start, tiles, add, old)
        return tuple(
            _put(a, part, q_start, dim) for a, part, dim in zip(carry, new, dims, strict=True)
        )

    shape, dims = (B, K, N // K, tiles.T), (-2, -1, -1)
    out_BKGTH, max_BKGT, sum_BKGT = _each(
        tile,
        _late(tiles.starts, q_BTNH),
        (
            jnp.zeros((*shape, H), jnp.float32),
            jnp.full(shape, LOWEST_MAXIMUM, jnp.float32),
            jnp.zeros(shape, jnp.float32),
        ),
    )
    sum_BKGT = jnp.where(sum_BKGT == 0, 1.0, sum_BKGT)
    out_BTNH = _tokens_first(out_BKGTH / sum_BKGT[..., None], T)
    return out_BTNH, (max_BKGT + jnp.log(sum_BKGT))[..., :T]


def backward(
    chunk: int,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    out_BTNH: jax.Array,
    log_sum_BKGT: jax.Array,
    grad_BTNH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what these keys add to the gradients of q, k and v, in float32.

    `out_BTNH` and `log_sum_BKGT` belong to all keys of the row, of which these may be a part.
    """
    H = q_BTNH.shape[-1]
    T, S = q_BTNH.shape[1], k_BSKH.shape[1]
    tiles = tiling(chunk, T, S, mask)
    q_BKGTH, k_BKSH, v_BKSH = _heads_first(tiles, q_BTNH, k_BSKH, v_BSKH)
    out_BKGTH, _, _ = _heads_first(tiles, out_BTNH, k_BSKH, v_BSKH)
    grad_BKGTH, _, _ = _heads_first(tiles, grad_BTNH, k_BSKH, v_BSKH)
    padded_mask = mask.pad(tiles.T, tiles.S)
    log_sum_BKGT = jnp.pad(log_sum_BKGT, [(0, 0)] * 3 + [(0, tiles.T - T)])
    # The part of each score's gradient that comes from the normalisation: grad . out.
    shared_BKGT = _product("BKGTH,BKGTH->BKGT", grad_BKGTH, out_BKGTH)

    def tile(carry, start):
        dq_BKGTH, dk_BKSH, dv_BKSH = carry
        q_start, k_start = start
        grads = _where_seen(padded_mask, start, tiles, lambda _: part(start), zero_part)
        dq_BKGPH, dk_BKCH, dv_BKCH = grads
        return (
            _add(dq_BKGTH, dq_BKGPH, q_start),
            _add(dk_BKSH, dk_BKCH, k_start),
            _add(dv_BKSH, dv_BKCH, k_start),
        )

    def part(start):
        q_start, k_start = start
        q_BKGPH = _cut(q_BKGTH, q_start, tiles.P, -2)
        grad_BKGPH = _cut(grad_BKGTH, q_start, tiles.P, -2)
        k_BKCH = _cut(k_BKSH, k_start, tiles.C, -2)
        v_BKCH = _cut(v_BKSH, k_start, tiles.C, -2)
        log_sum_BKGP = _cut(log_sum_BKGT, q_start, tiles.P, -1)
        shared_BKGP = _cut(shared_BKGT, q_start, tiles.P, -1)

        score_BKGPC = _scores(q_BKGPH, k_BKCH, padded_mask, start, S)
        weight_BKGPC = jnp.exp(score_BKGPC - log_sum_BKGP[..., None])
        dweight_BKGPC = _product("BKGPH,BKCH->BKGPC", grad_BKGPH, v_BKCH)
        dscore_BKGPC = weight_BKGPC * (dweight_BKGPC - shared_BKGP[..., None])
        dscore_BKGPC = dscore_BKGPC.astype(q_BKGPH.dtype)
        weight_BKGPC = weight_BKGPC.astype(grad_BKGPH.dtype)
        dq_BKGPH = _product("BKGPC,BKCH->BKGPH", dscore_BKGPC, k_BKCH)
        dk_BKCH = _product("BKGPC,BKGPH->BKCH", dscore_BKGPC, q_BKGPH)
        dv_BKCH = _product("BKGPC,BKGPH->BKCH", weight_BKGPC, grad_BKGPH)
        return dq_BKGPH, dk_BKCH, dv_BKCH

    zero_part = tuple(
        jnp.zeros((*a.shape[:-2], size, H), jnp.float32)
        for a, size in ((q_BKGTH, tiles.P), (k_BKSH, tiles.C), (v_BKSH, tiles.C))
    )
    zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in (q_BKGTH, k_BKSH, v_BKSH))
    dq_BKGTH, dk_BKSH, dv_BKSH = _each(tile, _late(tiles.starts, q_BTNH), zeros)
    dq_BTNH = _tokens_first(dq_BKGTH * H**-0.5, T)
    dk_BSKH = (dk_BKSH * H**-0.5).swapaxes(1, 2)[:, :S]
    return dq_BTNH, dk_BSKH, dv_BKSH.swapaxes(1, 2)[:, :S]


def _where_seen(mask: Mask, start: jax.Array, tiles: Tiling, compute, old):
    """Returns compute(old), or `old` without computing where the mask's indices hide the tile."""
    seen = mask.may_see(start[0], start[1], tiles.P, tiles.C)
    return compute(old) if seen is None else lax.cond(seen, compute, lambda old: old, old)


def _scores(
    q_BKGPH: jax.Array, k_BKCH: jax.Array, mask: Mask, start: jax.Array, S: int
) -> jax.Array:
    """Returns one tile of q k' / sqrt(H) in float32 [B, K, G, P, C], HIDDEN where not seen."""
    (P, H), C = q_BKGPH.shape[-2:], k_BKCH.shape[-2]
    q_start, k_start = start
    seen_BPC = mask.block(q_start, k_start, P, C)
    seen_BPC &= (jnp.arange(C) + k_start < S)[None, None]  # keys that only fill up the last tile
    score_BKGPC = _product("BKGPH,BKCH->BKGPC", q_BKGPH, k_BKCH) * H**-0.5
    return jnp.where(seen_BPC[:, None, None], score_BKGPC, HIDDEN)


def _product(shapes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(shapes, a, b, preferred_element_type=jnp.float32)


def _heads_first(tiles: Tiling, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array):
    """Returns q [B, K, G, T, H] and k, v [B, K, S, H], tokens filled up to whole tiles."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    q_BKGTH = _fill(q_BTKGH.transpose(0, 2, 3, 1, 4), tiles.T - T)
    k_BKSH = _fill(k_BSKH.swapaxes(1, 2), tiles.S - S)
    v_BKSH = _fill(v_BSKH.swapaxes(1, 2), tiles.S - S)
    return q_BKGTH, k_BKSH, v_BKSH


def _tokens_first(out_BKGTH: jax.Array, T: int) -> jax.Array:
    B, K, G, _, H = out_BKGTH.shape
    return out_BKGTH[:, :, :, :T].transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)


def _fill(a: jax.Array, tokens: int) -> jax.Array:
    return jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, tokens), (0, 0)])


def _cut(a: jax.Array, start: jax.Array, size: int, dim: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(a, start, size, dim)


def _put(a: jax.Array, part: jax.Array, start: jax.Array, dim: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(a, part, start, dim)


def _add(a: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    return _put(a, _cut(a, start, part.shape[-2], -2) + part, start, -2)


def _late(starts: np.ndarray, q_BTNH: jax.Array) -> np.ndarray | jax.Array:
    """Returns `starts`, as if it were known only when q is.

    The masks of all tiles do not depend on the layer. JAX and XLA would therefore compute them
    before the loop over layers, once, and hold them: at 32K that is more than the model.
    """
    if len(starts) == 1:
        return starts
    return lax.optimization_barrier((jnp.asarray(starts), q_BTNH[0, 0, 0, 0]))[0]


def _each(tile, starts: np.ndarray | jax.Array, carry):
    """Returns the carry after every tile; a single tile is not wrapped in a loop."""
    if len(starts) == 1:
        return tile(carry, starts[0])
    return lax.scan(lambda carry, start: (tile(carry, start), None), carry, starts)[0]
