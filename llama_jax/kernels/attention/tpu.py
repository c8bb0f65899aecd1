"""Flash attention for TPUs: the forward kernel.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
One tile is P queries by Q keys, computed in pieces of C keys; L = 128 lanes.

The grid is (heads, visits): `schedule.py` lists the tiles that hold something to see, so the time
follows the mask and not T S. The softmax is the online one (https://arxiv.org/abs/1805.02867) in
base 2, with log2(e) / sqrt(H) multiplied into q once. What is done for the sake of speed, and what
each step brought, is in kernels/README.md.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from llama_jax.kernels.attention import schedule
from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.softmax import HIDDEN, LOWEST_MAXIMUM
from llama_jax.kernels.attention.tiles import LANES, Setup
from llama_jax.kernels.attention.tpu_call import Blocks, call, scratch
from llama_jax.kernels.attention.tpu_tile import (
    heads_first,
    product,
    scaled,
    seen,
    spread_lines,
    tokens_first,
    where_computed,
    wide,
)


def forward(
    setup: Setup,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    dtype: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns what flash.Forward promises."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    tiles, plan, window = setup.forward, mask.plan, mask.window is not None
    padded_T, padded_S = tiles.padded(T, S)
    q_BNTH = heads_first(q_BTNH, padded_T)
    k_BKSH, v_BKSH = heads_first(k_BSKH, padded_S), heads_first(v_BSKH, padded_S)
    blocks = Blocks(tiles, H, lambda n, t: n, lambda n, t: lax.div(n, N // K))
    q_lines, k_lines = blocks.lines(plan.forward_lines)
    row = jax.ShapeDtypeStruct((B, N, 1, padded_T), jnp.float32)
    out_BNTH, log_sum_BN1T = call(
        functools.partial(_kernel, setup, window),
        "attention_forward",
        setup,
        tiles,
        plan.forward,
        products=2,
        grid=(N, plan.forward.count),
        inputs=[
            (q_BNTH, blocks.query()),
            (k_BKSH, blocks.key()),
            (v_BKSH, blocks.key()),
            (plan.forward_lines.q_BXT, q_lines),
            (plan.forward_lines.k_BXS, k_lines),
        ],
        outputs=[
            (jax.ShapeDtypeStruct(q_BNTH.shape, dtype or q_BNTH.dtype), blocks.query()),
            (row, blocks.query_row()),
        ],
        scratch=[
            scratch(tiles.queries, H, dtype=q_BTNH.dtype),
            scratch(tiles.queries, H),
            scratch(tiles.queries, LANES),
            scratch(tiles.queries, LANES),
            scratch(2 + window, tiles.queries, LANES, dtype=jnp.int32),
        ],
    )
    return tokens_first(out_BNTH, T), log_sum_BN1T[:, :, 0, :T]


def _kernel(setup: Setup, window: bool, _row_E, _query_E, _key_E, what_E, *refs):
    """One visit. The sums stay in scratch memory from the first to the last of a query tile."""
    q_ref, k_ref, v_ref, q_line_ref, k_line_ref, out_ref, log_sum_ref, *sums = refs
    scaled_q, out, max, sum, q_lines = sums
    what, tiles, H = what_E[pl.program_id(1)], setup.forward, q_ref.shape[-1]

    @pl.when(what & schedule.FIRST != 0)
    def _():
        scaled_q[...] = scaled(q_ref[...])
        out[...] = jnp.zeros_like(out)
        max[...] = jnp.full_like(max, LOWEST_MAXIMUM)
        sum[...] = jnp.zeros_like(sum)
        q_lines[...] = spread_lines(q_line_ref[...], len(q_lines))

    def compute(masked: bool):
        def score(piece):
            score_PC = product("PH,CH->PC", scaled_q[...], k_ref[piece, :])
            if not masked:
                return score_PC
            pairs_PC = seen(
                lambda line: wide(q_lines[line], tiles.piece),
                lambda line: k_line_ref[line : line + 1, piece],
                window,
            )
            return jnp.where(pairs_PC, score_PC, HIDDEN)

        pieces = [pl.ds(c, tiles.piece) for c in range(0, tiles.keys, tiles.piece)]
        out_PH, max_PL, sum_PL = out[...], max[...], sum[...]
        score_PC = score(pieces[0])
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            # Before this piece's softmax, so that the matrix unit has work meanwhile.
            next_PC = None if following is None else score(following)
            old_PL, max_PL = max_PL, jnp.maximum(max_PL, score_PC.max(axis=1, keepdims=True))
            shrink_PL = jnp.exp2(old_PL - max_PL)
            weight_PC = jnp.exp2(score_PC - wide(max_PL, tiles.piece))
            sum_PL = sum_PL * shrink_PL + _by_lane(weight_PC)
            add_PH = product("PC,CH->PH", weight_PC.astype(v_ref.dtype), v_ref[piece, :])
            out_PH = out_PH * wide(shrink_PL, H) + add_PH
            score_PC = next_PC
        out[...], max[...], sum[...] = out_PH, max_PL, sum_PL

    where_computed(what, compute)

    @pl.when(what & schedule.LAST != 0)
    def _():
        sum_P1 = sum[...].sum(axis=1, keepdims=True)
        sum_P1 = jnp.where(sum_P1 == 0, 1.0, sum_P1)
        out_ref[...] = (out[...] / sum_P1).astype(out_ref.dtype)
        log_sum_ref[...] = (max[...] + jnp.log2(sum_P1)).T[:1]


def _by_lane(weight_PC: jax.Array) -> jax.Array:
    """Returns sums [P, L], lane by lane; they are added up across lanes only at the end."""
    parts = [weight_PC[:, c : c + LANES] for c in range(0, weight_PC.shape[1], LANES)]
    return functools.reduce(jnp.add, parts)
