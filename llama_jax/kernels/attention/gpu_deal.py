"""Which items each block of a GPU kernel computes, where blocks stay and take one after the other.

B batch, T query tokens, S key tokens, E blocks of one head, W rounds, P blocks that stay.

An item is one tile of queries of one head, and its work the tiles of keys that it visits. Items are
dealt in rounds, in the order in which blocks would start (`gpu_schedule.py`): in each round the
block with the least work so far gets the item with the most. Dealt without a look at the work, the
busiest of 132 blocks would have up to 1.4 times the mean, and so 1.02 (causal rows of 4K and 32K).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from llama_jax.kernels.attention import gpu_schedule
from llama_jax.kernels.attention.gpu_block import heads_together
from llama_jax.kernels.attention.gpu_tiles import Setup, padded_head
from llama_jax.kernels.attention.mask import Mask


def make(mask: Mask, setup: Setup, B: int, T: int, S: int) -> gpu_schedule.Schedule:
    """Returns the schedule of `gpu_schedule.make`, with the items of the forward kernel dealt."""
    plan = gpu_schedule.make(mask, setup, B, T, S)
    count_E = plan.forward.count_BO.reshape(-1)[plan.forward.block_E]
    groups = setup.query_heads // forward_heads(setup, plan.k_lines_BUS.shape[2])
    work_I = jnp.tile(jnp.repeat(count_E, setup.query_heads // groups), groups)
    dealt = dataclasses.replace(plan.forward, item_WP=deal(work_I, setup.processors))
    return dataclasses.replace(plan, forward=dealt)


def forward_heads(setup: Setup, S: int) -> int:
    """Returns how many query heads the forward kernel goes through at a time."""
    K, width = setup.key_heads, padded_head(setup.head_size)
    return setup.query_heads // K * heads_together(K, 4 * S * width)


def deal(work_I: jax.Array, blocks: int) -> jax.Array:
    """Returns i32 [W, P]: the item of each round and block; -1, in the last round, is none."""
    items = work_I.shape[0]
    blocks = min(blocks, items)
    more = -items % blocks
    work_WP = jnp.pad(work_I, (0, more), constant_values=-1).reshape(-1, blocks)
    item_WP = jnp.pad(jnp.arange(items), (0, more), constant_values=-1).reshape(-1, blocks)
    most_WP = jnp.argsort(-work_WP, axis=1, stable=True)
    rounds = (jnp.take_along_axis(x, most_WP, axis=1) for x in (work_WP, item_WP))

    def hand_out(load_P, dealt):
        more_P, item_P = dealt
        to_P = jnp.argsort(load_P, stable=True)
        return load_P.at[to_P].add(more_P), jnp.zeros_like(item_P).at[to_P].set(item_P)

    return lax.scan(hand_out, jnp.zeros_like(work_WP[0]), tuple(rounds))[1].astype(jnp.int32)
