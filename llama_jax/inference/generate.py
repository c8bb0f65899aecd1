"""From prompts to tokens: one pass over the prompts, then a loop of single tokens over a cache.

Prompts of different lengths are aligned at their ends; what is left free in front is segment 0,
which nobody attends to, and positions count from each row's own first token:

    slot       0  1  2  3  4 | 5  6
    prompt 0   a  b  c  d  e | f  g       positions 0 1 2 3 4 | 5 6
    prompt 1   .  .  .  p  q | r  s       positions . . . 0 1 | 2 3

Compiled programs, for one batch size: sizes are powers of two from `SMALLEST` on, the last one cut
to the model's context. There is one prefill program for each size of prompt and one decode program
for each size of cache, whatever the prompts, their lengths and the settings of sampling are. With a
context of 512 that is at most 4 + 4; with 32,768, 10 + 10. (Rows of one batch that differ in
length can need a cache longer than the context, up to twice as long: one size more.) "dynamic"
scaling beyond its original context has no use for a cache: there every token is a prefill.

Dimensions: B batch, T prompt tokens, S cache slots, V vocabulary, E ids that end a text.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama_jax.config.generate import GenerateConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.core import tree
from llama_jax.inference.sampling import Sampling, choose
from llama_jax.kernels.attention.mask import Mask
from llama_jax.model import cache as kv
from llama_jax.model import llama
from llama_jax.model.cache import KVCache
from llama_jax.model.llama import Params

SMALLEST = 64  # Tokens: the smallest prompt and the smallest cache.
BLOCK = 32  # Tokens decoded on the device between two looks of the host.
NONE = -1  # In the place of a token of a row that has ended.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """Everything between two tokens. `token_B` is chosen, but not yet in the cache."""

    cache: KVCache
    token_B: jax.Array  # i32
    position_B: jax.Array  # i32, of token_B.
    free_B: jax.Array  # i32, slots in front of the row's first token.
    left_B: jax.Array  # i32, tokens that the row may still add.
    ended_B: jax.Array  # bool
    seen_BV: jax.Array  # bool, tokens of the prompt and of the continuation.
    key_B: jax.Array  # One random key for each row; each position folds itself in.


class Generator:
    """Continues token ids with a model. Holds the compiled programs, so keep it."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        params: Params,
        end_ids: Iterable[int],
    ):
        self.config, self.params = config, params
        self._end_E = jnp.asarray(sorted(end_ids), jnp.int32)
        graph, _ = llama.abstract(config, dataclasses.replace(compute, remat="none"))
        # Chunked attention is as fast as the reference for a single query too (2 CPU cores: 0.06
        # against 0.09 ms with 512 keys of 4 heads of 8, 105 against 117 with 8192 of 8 of 128).
        self._dtype = jnp.dtype(compute.dtype)
        self._prefill = jax.jit(partial(_prefill, graph, config, self._dtype))
        self._decode = jax.jit(partial(_decode, graph, config), donate_argnames="decoding")
        self._move = jax.jit(_move, static_argnames="slots")

    def room(self, prompt: Sequence[int], config: GenerateConfig) -> int:
        """Returns how many tokens may follow the prompt.

        `max_new_tokens` wins over `max_length`, as in transformers; the context bounds both.

        Raises:
            ValueError: None may.
        """
        context = self.config.context
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and the model a context of {context}, which "
                "leaves no room for another token. Shorten the prompt."
            )
        if config.max_new_tokens is not None:
            return min(config.max_new_tokens, context - len(prompt))
        if config.max_length is None:
            return context - len(prompt)
        if len(prompt) >= config.max_length:
            raise ValueError(
                f"max_length is {config.max_length} but the prompt alone has {len(prompt)} tokens "
                "and counts. Raise max_length, or set max_new_tokens instead."
            )
        return min(config.max_length, context) - len(prompt)

    def continuations(
        self, prompts: Sequence[Sequence[int]], config: GenerateConfig, block: int = BLOCK
    ) -> Iterator[list[list[int]]]:
        """Yields the next tokens of every row, up to `block` each, until all rows have ended.

        A row ends with one of the `end_ids`, which is yielded, or when its room is used up. Its
        tokens do not depend on the other rows, nor on `block`. The random numbers of a row depend
        on the seed and, so that a repeated prompt gives different texts, on how many rows before it
        have the same prompt.

        Raises:
            ValueError: A prompt is empty or leaves no room.
        """
        assert 1 <= block <= BLOCK
        if not all(prompts):
            raise ValueError("a prompt has no tokens; it must have at least one, e.g. BOS.")
        room_B = [self.room(prompt, config) for prompt in prompts]
        if self._outgrows_cache(prompts, room_B):
            return self._recomputed(prompts, room_B, config)
        return self._blocks(prompts, room_B, config, block)

    def _outgrows_cache(self, prompts: Sequence[Sequence[int]], room_B: list[int]) -> bool:
        rope = self.config.rope
        if rope.scaling != "dynamic":
            return False
        assert rope.original_context is not None
        longest = max(len(p) + room for p, room in zip(prompts, room_B, strict=True))
        return longest > rope.original_context

    def _recomputed(
        self, prompts: Sequence[Sequence[int]], room_B: list[int], config: GenerateConfig
    ) -> Iterator[list[list[int]]]:
        """Yields one token of each row at a time, each from a pass over the whole row.

        Beyond the original context of "dynamic" scaling every new token changes the angles of all
        earlier ones, and with them every layer's keys: no cache would be right.
        """
        sampling, key_B = Sampling.of(config), _keys(prompts, config.seed)
        rows, has_ended = [list(prompt) for prompt in prompts], [False] * len(prompts)
        while not all(has_ended):
            token_BT, free_B = aligned(rows, self._size(max(map(len, rows))))
            left_B = [
                len(p) + room - len(r) for p, room, r in zip(prompts, room_B, rows, strict=True)
            ]
            decoding = self._prefill(
                self.params, token_BT, free_B, jnp.asarray(left_B), key_B, sampling, self._end_E
            )
            token_B, ended_B = np.asarray(decoding.token_B), np.asarray(decoding.ended_B)
            new = [[] if over else [int(t)] for over, t in zip(has_ended, token_B, strict=True)]
            yield new
            for row, tokens in zip(rows, new, strict=True):
                row += tokens
            has_ended = [over or bool(e) for over, e in zip(has_ended, ended_B, strict=True)]

    def _blocks(
        self,
        prompts: Sequence[Sequence[int]],
        room_B: list[int],
        config: GenerateConfig,
        block: int,
    ) -> Iterator[list[list[int]]]:
        sampling = Sampling.of(config)
        longest = max(map(len, prompts))
        token_BT, free_B = aligned(prompts, self._size(longest))
        decoding = self._prefill(
            self.params, token_BT, free_B, jnp.asarray(room_B), _keys(prompts, config.seed),
            sampling, self._end_E,
        )  # fmt: skip
        yield _rows(np.asarray(decoding.token_B)[:, None])
        # Rows now start at slot 0 again, so that no cache is longer than what it holds.
        slots = self._size(longest + min(BLOCK, max(room_B)))
        decoding = self._move(decoding, token_BT.shape[1] - longest, slots)
        used = longest
        while not np.asarray(decoding.ended_B).all():
            if used == slots:
                slots = self._size(slots + 1)
                decoding = self._move(decoding, 0, slots)
            steps = min(block, slots - used)
            decoding, token_BX = self._decode(
                self.params, decoding=decoding, sampling=sampling, end_E=self._end_E, steps=steps
            )
            used += steps
            yield _rows(np.asarray(token_BX))

    def lower_decode(
        self, rows: int, slots: int, sharding: Callable[[str, Any], jax.sharding.Sharding]
    ) -> tuple[jax.stages.Lowered, KVCache]:
        """Returns the loop over single tokens before its compilation, and its cache as shapes.

        Args:
            rows: B.
            slots: S.
            sharding: Where an array of `Decoding` lives, by its name and shape.
        """

        def fresh() -> Decoding:
            zero_B = jnp.zeros(rows, jnp.int32)
            return Decoding(
                cache=kv.create(self.config, rows, slots, self._dtype),
                token_B=zero_B,
                position_B=zero_B,
                free_B=zero_B,
                left_B=zero_B,
                ended_B=zero_B != 0,
                seen_BV=jnp.zeros((rows, self.config.vocab), bool),
                key_B=_keys([[0]] * rows, 0),
            )

        def placed(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
            where = sharding(name, leaf)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

        decoding = tree.map_named(placed, jax.eval_shape(fresh))
        sampling, steps = Sampling.of(GenerateConfig()), jax.ShapeDtypeStruct((), jnp.int32)
        lowered = self._decode.lower(
            self.params, decoding=decoding, sampling=sampling, end_E=self._end_E, steps=steps
        )
        return lowered, decoding.cache

    def _size(self, tokens: int) -> int:
        """Returns the smallest of the sizes that programs are compiled for with so many tokens."""
        size = max(SMALLEST, 1 << (tokens - 1).bit_length())
        return self.config.context if tokens <= self.config.context < size else size


def aligned(prompts: Sequence[Sequence[int]], size: int) -> tuple[jax.Array, jax.Array]:
    """Returns the prompts as i32[B, size], ending together, and the free slots before each."""
    token_BT = np.zeros((len(prompts), size), np.int32)
    for row_T, prompt in zip(token_BT, prompts, strict=True):
        row_T[size - len(prompt) :] = prompt
    free_B = np.asarray([size - len(prompt) for prompt in prompts], np.int32)
    return jnp.asarray(token_BT), jnp.asarray(free_B)


def _keys(prompts: Sequence[Sequence[int]], seed: int) -> jax.Array:
    """Returns one key for each row: of the seed, and of the equal prompts before it."""
    rows = [tuple(prompt) for prompt in prompts]
    before_B = jnp.asarray([rows[:i].count(row) for i, row in enumerate(rows)], jnp.uint32)
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(before_B)


def _rows(token_BX: np.ndarray) -> list[list[int]]:
    return [[int(token) for token in row_X if token != NONE] for row_X in token_BX]


def _prefill(
    graph: nnx.GraphDef,
    config: ModelConfig,
    dtype: jnp.dtype,
    params: Params,
    token_BT: jax.Array,
    free_B: jax.Array,
    room_B: jax.Array,
    key_B: jax.Array,
    sampling: Sampling,
    end_E: jax.Array,
) -> Decoding:
    """Returns the state with the prompts in a cache of T slots and the first tokens chosen."""
    B, T = token_BT.shape
    slot_BT = jax.lax.broadcasted_iota(jnp.int32, (B, T), 1)
    real_BT = slot_BT >= free_B[:, None]
    segment_BT = real_BT.astype(jnp.int32)
    mask = Mask(window=config.window, q_segment_BT=segment_BT, k_segment_BS=segment_BT)
    position_BT = jnp.maximum(slot_BT - free_B[:, None], 0)
    model = llama.merge(graph, params)
    x_BTD, cache = model.hidden(token_BT, position_BT, mask, kv.create(config, B, T, dtype))
    assert cache is not None
    row_BT = jax.lax.broadcasted_iota(jnp.int32, (B, T), 0)
    seen_BV = jnp.zeros((B, config.vocab), bool).at[row_BT, token_BT].max(real_BT)
    decoding = Decoding(
        cache=cache,
        token_B=token_BT[:, -1],
        position_B=position_BT[:, -1],
        free_B=free_B,
        left_B=room_B,
        ended_B=jnp.zeros(B, bool),
        seen_BV=seen_BV,
        key_B=key_B,
    )
    return _chosen(decoding, model.logits(x_BTD[:, -1:])[:, 0], sampling, end_E)


def _decode(
    graph: nnx.GraphDef,
    config: ModelConfig,
    params: Params,
    decoding: Decoding,
    sampling: Sampling,
    end_E: jax.Array,
    steps: jax.Array,
) -> tuple[Decoding, jax.Array]:
    """Returns the state up to `steps` tokens later, and these as i32[B, BLOCK], others NONE."""
    model = llama.merge(graph, params)

    def more(carry) -> jax.Array:
        step, decoding, _ = carry
        return (step < steps) & ~decoding.ended_B.all()

    def step(carry):
        step, decoding, token_BX = carry
        ended_B = decoding.ended_B
        logits_BV, cache = _next_logits(model, config, decoding)
        decoding = dataclasses.replace(decoding, cache=cache)
        decoding = _chosen(decoding, logits_BV, sampling, end_E)
        new_B = jnp.where(ended_B, NONE, decoding.token_B)
        return step + 1, decoding, token_BX.at[:, step].set(new_B)

    nothing_BX = jnp.full((decoding.token_B.shape[0], BLOCK), NONE, jnp.int32)
    _, decoding, token_BX = jax.lax.while_loop(more, step, (jnp.int32(0), decoding, nothing_BX))
    return decoding, token_BX


def _next_logits(
    model: llama.Llama, config: ModelConfig, decoding: Decoding
) -> tuple[jax.Array, KVCache]:
    """Returns f32[B, V] after `token_B`, and the cache with it."""
    cache = decoding.cache
    B, S = cache.k_LBSKH.shape[1:3]
    slot_BS = jax.lax.broadcasted_iota(jnp.int32, (B, S), 1)
    mask = Mask(
        window=config.window,
        q_offset=cache.length,
        q_segment_BT=jnp.ones((B, 1), jnp.int32),
        k_segment_BS=(slot_BS >= decoding.free_B[:, None]).astype(jnp.int32),
    )
    token_BT, position_BT = decoding.token_B[:, None], decoding.position_B[:, None]
    x_BTD, longer = model.hidden(token_BT, position_BT, mask, cache)
    assert longer is not None
    return model.logits(x_BTD)[:, 0], longer


def _chosen(
    decoding: Decoding, logits_BV: jax.Array, sampling: Sampling, end_E: jax.Array
) -> Decoding:
    """Returns the state with the next token chosen; rows that have ended stay as they are."""
    go_B = ~decoding.ended_B
    position_B = decoding.position_B + go_B.astype(jnp.int32)
    key_B = jax.vmap(jax.random.fold_in)(decoding.key_B, position_B)
    token_B = choose(logits_BV, decoding.seen_BV, key_B, sampling)
    token_B = jnp.where(go_B, token_B, decoding.token_B)
    left_B = decoding.left_B - go_B.astype(jnp.int32)
    is_end_B = (token_B[:, None] == end_E[None, :]).any(axis=1)
    return dataclasses.replace(
        decoding,
        token_B=token_B,
        position_B=position_B,
        left_B=left_B,
        ended_B=decoding.ended_B | is_end_B | (left_B <= 0),
        seen_BV=decoding.seen_BV.at[jnp.arange(token_B.shape[0]), token_B].set(True),
    )


def _move(decoding: Decoding, shift: jax.Array, slots: int) -> Decoding:
    """Returns the state with every slot `shift` places further to the front, of `slots` in all."""

    def moved(array: jax.Array, dim: int) -> jax.Array:
        widths = [(0, 0)] * array.ndim
        widths[dim] = (0, slots - array.shape[dim])
        return jnp.pad(jnp.roll(array, -shift, axis=dim), widths)

    old = decoding.cache
    cache = KVCache(
        k_LBSKH=moved(old.k_LBSKH, 2),
        v_LBSKH=moved(old.v_LBSKH, 2),
        length=old.length - shift,
    )
    return dataclasses.replace(decoding, cache=cache, free_B=decoding.free_B - shift)
