"""Flash attention for TPUs: the backward kernels.

B batch, T query tokens, S key tokens, N query heads, K key heads, G = N / K, H head size.
One tile is P queries by Q keys, computed in pieces of C keys. Scores are transposed, [C, P]: then
what belongs to a query (its log-sum-exp) is a row, and dk and dv need no transposition.

    scores    s  = k q'            p  = 2^(s - log_sum)
    dv += p do        dp = v do'       ds = p (dp - sum(out do))
    dk += ds q        dq += ds' k

Tiles come by keys. dk and dv of a key tile, and dq of all queries of G heads, stay in vector
memory: five products for each tile, nothing partial in main memory, always the same order of sums.
Where they do not fit, one kernel goes by keys for dk and dv and another by queries for dq: seven
products. `tiles.py` decides by arithmetic.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from llama_jax.kernels.attention import schedule
from llama_jax.kernels.attention.mask import Mask
from llama_jax.kernels.attention.schedule import Schedule
from llama_jax.kernels.attention.softmax import HIDDEN
from llama_jax.kernels.attention.tiles import LANES, Setup
from llama_jax.kernels.attention.tpu_call import Blocks, call, scratch
from llama_jax.kernels.attention.tpu_tile import (
    heads_first,
    product,
    scaled,
    seen,
    spread,
    spread_lines,
    tokens_first,
    where_computed,
    wide,
)


def backward(
    setup: Setup,
    q_BTNH: jax.Array,
    out_BTNH: jax.Array,
    log_sum_BNT: jax.Array,
    grad_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    dtype: Any = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what flash.Backward promises."""
    T, S, plan, window = q_BTNH.shape[1], k_BSKH.shape[1], mask.plan, mask.window is not None
    padded_T, padded_S = setup.backward.padded(T, S)
    # The part of each score's gradient that comes from the normalisation: grad . out.
    shared_BTN = (grad_BTNH.astype(jnp.float32) * out_BTNH.astype(jnp.float32)).sum(-1)
    more = ((0, 0), (0, 0), (0, padded_T - T))
    arrays = (
        heads_first(q_BTNH, padded_T),
        heads_first(k_BSKH, padded_S),
        heads_first(v_BSKH, padded_S),
        heads_first(grad_BTNH, padded_T),
        jnp.pad(log_sum_BNT, more)[:, :, None],
        jnp.pad(shared_BTN.swapaxes(1, 2), more)[:, :, None],
    )
    dtype = dtype or q_BTNH.dtype
    dk_BKSH, dv_BKSH, *dq = _by_key(setup, window, plan, dtype, *arrays)
    dq_BNTH = dq[0] if setup.fused else _by_query(setup, window, plan, dtype, *arrays)
    return tokens_first(dq_BNTH, T), tokens_first(dk_BKSH, S), tokens_first(dv_BKSH, S)


def _inputs(blocks: Blocks, plan: Schedule, q, k, v, grad, log_sum, shared):
    lines = plan.backward_lines
    q_lines, k_lines = blocks.lines(lines)
    return [
        (q, blocks.query()),
        (k, blocks.key()),
        (v, blocks.key()),
        (grad, blocks.query()),
        (log_sum, blocks.query_row()),
        (shared, blocks.query_row()),
        (lines.q_BXT, q_lines),
        (lines.k_BXS, k_lines),
    ]


def _by_key(setup: Setup, window: bool, plan: Schedule, dtype, *arrays) -> list[jax.Array]:
    """Returns dk and dv [B, K, S, H], and dq [B, N, T, H] if the setup is fused."""
    q, k = (jax.ShapeDtypeStruct(x.shape, dtype) for x in arrays[:2])
    (_, N, T, H), K = q.shape, k.shape[1]
    G = N // K
    blocks = Blocks(setup.backward, H, lambda k, t, g: k * G + g, lambda k, t, g: k)

    def finished(k, t, g, row_E, query_E, _, what_E):
        """The tile of dq that is written next: it changes only after a flush."""
        flush = (what_E[t] & schedule.FLUSH != 0).astype(jnp.int32)
        return row_E[t], k * G + g * flush, query_E[t] * flush, 0

    P, Q = setup.backward.queries, setup.backward.keys
    outputs = [(k, blocks.key())] * 2
    sums = [scratch(2 + window, Q, LANES, dtype=jnp.int32), scratch(Q, H), scratch(Q, H)]
    if setup.fused:
        outputs.append((q, pl.BlockSpec((None, None, P, H), finished)))
        sums.append(scratch(G * T, H))
    return call(
        functools.partial(_by_key_kernel, setup, window, T),
        "attention_backward" if setup.fused else "attention_backward_dkv",
        setup,
        setup.backward,
        plan.backward,
        products=5 if setup.fused else 4,
        grid=(K, plan.backward.count, G),
        inputs=_inputs(blocks, plan, *arrays),
        outputs=outputs,
        scratch=sums,
    )


def _by_query(setup: Setup, window: bool, plan: Schedule, dtype, *arrays) -> jax.Array:
    """Returns dq [B, N, T, H]."""
    assert plan.dq is not None
    q = jax.ShapeDtypeStruct(arrays[0].shape, dtype)
    (_, N, _, H), K, P = q.shape, arrays[1].shape[1], setup.backward.queries
    blocks = Blocks(setup.backward, H, lambda n, t: n, lambda n, t: lax.div(n, N // K))
    (dq_BNTH,) = call(
        functools.partial(_by_query_kernel, setup, window),
        "attention_backward_dq",
        setup,
        setup.backward,
        plan.dq,
        products=3,
        grid=(N, plan.dq.count),
        inputs=_inputs(blocks, plan, *arrays),
        outputs=[(q, blocks.query())],
        scratch=[
            scratch(P, H),
            scratch(P, H, dtype=arrays[0].dtype),
            scratch(P, LANES),
            scratch(P, LANES),
            scratch(2 + window, P, LANES, dtype=jnp.int32),
        ],
    )
    return dq_BNTH


def _by_key_kernel(setup: Setup, window: bool, T: int, _row_E, query_E, key_E, what_E, *refs):
    """One visit with one of G heads. dk and dv stay from the first to the last of a key tile.

    Scores are transposed: what belongs to a query is a row, and dk and dv need no transposition.
    """
    q_ref, k_ref, v_ref, grad_ref, log_sum_ref, shared_ref, q_line_ref, k_line_ref = refs[:8]
    dk_ref, dv_ref, *dq_ref = refs[8 : 10 + setup.fused]
    k_lines, dk, dv, *dq = refs[10 + setup.fused :]
    t, g, P, tiles = pl.program_id(1), pl.program_id(2), setup.backward.queries, setup.backward
    what, scale = what_E[t], q_ref.shape[-1] ** -0.5
    is_first = (what & schedule.FIRST != 0) & (g == 0)
    queries = pl.ds(pl.multiple_of(g * T + query_E[t] * P, P), P)

    @pl.when(is_first)
    def _():
        dk[...], dv[...] = jnp.zeros_like(dk), jnp.zeros_like(dv)
        k_lines[...] = spread_lines(k_line_ref[...], len(k_lines))

    if setup.fused:
        pl.when(is_first & (key_E[t] == 0))(lambda: _zero(dq[0], P))

    def compute(masked: bool):
        scaled_PH, parts = scaled(q_ref[...]), []
        for c in range(0, tiles.keys, tiles.piece):
            piece = pl.ds(c, tiles.piece)
            score_CP = product("CH,PH->CP", k_ref[piece, :], scaled_PH)
            if masked:
                pairs_CP = seen(
                    lambda line: q_line_ref[line : line + 1, :],
                    lambda line, piece=piece: wide(k_lines[line, piece, :], P),
                    window,
                )
                score_CP = jnp.where(pairs_CP, score_CP, HIDDEN)
            weight_CP = jnp.exp2(score_CP - log_sum_ref[...])
            dv[piece, :] += product("CP,PH->CH", weight_CP.astype(grad_ref.dtype), grad_ref[...])
            dweight_CP = product("CH,PH->CP", v_ref[piece, :], grad_ref[...])
            dscore_CP = (weight_CP * (dweight_CP - shared_ref[...])).astype(q_ref.dtype)
            dk[piece, :] += product("CP,PH->CH", dscore_CP, q_ref[...])
            if setup.fused:
                parts.append(product("CP,CH->PH", dscore_CP, k_ref[piece, :]))
        if setup.fused:
            dq[0][queries, :] += functools.reduce(jnp.add, parts)

    where_computed(what, compute)

    @pl.when((what & schedule.LAST != 0) & (g == pl.num_programs(2) - 1))
    def _():
        dk_ref[...] = (dk[...] * scale).astype(dk_ref.dtype)
        dv_ref[...] = dv[...].astype(dv_ref.dtype)

    if setup.fused:

        @pl.when(what & schedule.FLUSH != 0)
        def _():
            dq_ref[0][...] = (dq[0][queries, :] * scale).astype(dq_ref[0].dtype)


def _by_query_kernel(setup: Setup, window: bool, _row_E, _query_E, _key_E, what_E, *refs):
    """One visit. dq stays from the first to the last of a query tile; scores are [P, C]."""
    q_ref, k_ref, v_ref, grad_ref, log_sum_ref, shared_ref, q_line_ref, k_line_ref = refs[:8]
    dq_ref, dq, scaled_q, log_sum, shared, q_lines = refs[8:]
    what, tiles = what_E[pl.program_id(1)], setup.backward

    @pl.when(what & schedule.FIRST != 0)
    def _():
        dq[...] = jnp.zeros_like(dq)
        scaled_q[...] = scaled(q_ref[...])
        log_sum[...], shared[...] = spread(log_sum_ref[...]), spread(shared_ref[...])
        q_lines[...] = spread_lines(q_line_ref[...], len(q_lines))

    def compute(masked: bool):
        for c in range(0, tiles.keys, tiles.piece):
            piece = pl.ds(c, tiles.piece)
            score_PC = product("PH,CH->PC", scaled_q[...], k_ref[piece, :])
            if masked:
                pairs_PC = seen(
                    lambda line: wide(q_lines[line], tiles.piece),
                    lambda line, piece=piece: k_line_ref[line : line + 1, piece],
                    window,
                )
                score_PC = jnp.where(pairs_PC, score_PC, HIDDEN)
            weight_PC = jnp.exp2(score_PC - wide(log_sum[...], tiles.piece))
            dweight_PC = product("PH,CH->PC", grad_ref[...], v_ref[piece, :])
            dscore_PC = weight_PC * (dweight_PC - wide(shared[...], tiles.piece))
            dq[...] += product("PC,CH->PH", dscore_PC.astype(k_ref.dtype), k_ref[piece, :])

    where_computed(what, compute)

    @pl.when(what & schedule.LAST != 0)
    def _():
        dq_ref[...] = (dq[...] * dq.shape[1] ** -0.5).astype(dq_ref.dtype)


def _zero(ref, rows: int) -> None:
    """Fills a large reference in a loop, not in as many instructions as it has registers."""

    @pl.loop(0, ref.shape[0], step=rows)
    def _(start):
        part = pl.ds(pl.multiple_of(start, rows), rows)
        ref[part, :] = jnp.zeros((rows, ref.shape[1]), ref.dtype)
