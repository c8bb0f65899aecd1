"""Which keys each query may attend to, as a rule and not as a matrix.

B batch, T query tokens, S key tokens. Four tokens of one document, three of the next, one of
padding; every query sees itself and the two tokens before it, in its own document only:

    >>> print(Mask.packed(jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]]), window=3).draw(8, 8))
    x . . . . . . .
    x x . . . . . .
    x x x . . . . .
    . x x x . . . .
    . . . . x . . .
    . . . . x x . .
    . . . . x x x .
    . . . . . . . .

Rows are queries, columns are keys.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Query t is key q_offset + t; it sees key s where every part that is set allows it.

    A pytree. `causal`, `window` and a `q_offset` given as int are static, so kernels can leave
    out keys that nobody sees; a `q_offset` given as array (decoding), segments and indices are
    traced.
    """

    causal: bool = True  # A query sees no later key.
    window: int | None = None  # A query sees itself and window - 1 keys before it.
    q_offset: int | jax.Array = 0  # Index of query 0 among the keys: int, or i32 scalar.
    # Document number of each token. A query sees keys of its own number only. 0 is padding: as
    # query it sees nothing, as key nobody sees it. Both are set, or neither.
    q_segment_BT: jax.Array | None = None
    k_segment_BS: jax.Array | None = None
    # Index of each query and key in its row, i32, where they are not 0, 1, 2 ... (a sequence that
    # is split over devices). Both are set, or neither; then q_offset is 0.
    q_index_T: jax.Array | None = None
    k_index_S: jax.Array | None = None
    # What a kernel has worked out from all the others (api.prepare), for rows of one length.
    plan: Any = None

    def __post_init__(self):
        if self.window is not None and not self.causal:
            raise ValueError(
                f"window is {self.window} but causal is False; a window reaches back from the "
                "query, so it needs causal=True."
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1, or None for all.")
        if (self.q_segment_BT is None) != (self.k_segment_BS is None):
            raise ValueError(
                "One of q_segment_BT and k_segment_BS is None; segments need both. Where queries "
                "and keys are the same tokens, Mask.packed(segment_BT) sets both."
            )
        assert (self.q_index_T is None) == (self.k_index_S is None)

    @classmethod
    def packed(cls, segment_BT: jax.Array, window: int | None = None) -> "Mask":
        """Returns the causal mask of rows that hold several documents; 0 marks padding."""
        return cls(window=window, q_segment_BT=segment_BT, k_segment_BS=segment_BT)

    def dense(self, B: int, T: int, S: int) -> jax.Array:
        """Returns the whole matrix, bool [B, T, S]; True where the query sees the key."""
        return jnp.broadcast_to(self.block(0, 0, T, S), (B, T, S))

    def block(
        self, q_start: int | jax.Array, k_start: int | jax.Array, T: int, S: int
    ) -> jax.Array:
        """Returns rows q_start.. and columns k_start.. of the matrix, bool [B or 1, T, S]."""
        query_T, key_S = self._part_of_indices(q_start, k_start, T, S)
        seen_BTS = jnp.ones((1, T, S), bool)
        if self.causal:
            seen_BTS &= (query_T[:, None] >= key_S[None, :])[None]
        if self.window is not None:
            seen_BTS &= (query_T[:, None] < key_S[None, :] + self.window)[None]
        if self.q_segment_BT is not None and self.k_segment_BS is not None:
            q_segment_BT = lax.dynamic_slice_in_dim(self.q_segment_BT, q_start, T, 1)
            k_segment_BS = lax.dynamic_slice_in_dim(self.k_segment_BS, k_start, S, 1)
            same_BTS = q_segment_BT[:, :, None] == k_segment_BS[:, None, :]
            seen_BTS = seen_BTS & same_BTS & (q_segment_BT != 0)[:, :, None]
        return seen_BTS

    def hides(self, q_start: int, k_start: int, T: int, S: int) -> bool:
        """Returns whether the static parts alone make that block all False."""
        if not isinstance(self.q_offset, int) or self.q_index_T is not None:
            return False
        first_query = self.q_offset + q_start
        too_late = self.causal and k_start > first_query + T - 1
        too_early = self.window is not None and k_start + S - 1 <= first_query - self.window
        return too_late or too_early

    def may_see(
        self, q_start: int | jax.Array, k_start: int | jax.Array, T: int, S: int
    ) -> jax.Array | None:
        """Returns bool []: False if the indices make that block all False; None without indices."""
        if self.q_index_T is None or not self.causal:
            return None
        query_T, key_S = self._part_of_indices(q_start, k_start, T, S)
        seen = query_T.max() >= key_S.min()
        if self.window is not None:
            seen &= query_T.min() < key_S.max() + self.window
        return seen

    def pad(self, T: int, S: int) -> "Mask":
        """Returns the mask filled up to T and S tokens with padding."""
        return self._pad_indices(T, S)._pad_segments(T, S)

    def indices(self, T: int, S: int) -> tuple[jax.Array, jax.Array]:
        """Returns the index of each query and each key in its row, i32 [T] and [S]."""
        return self._part_of_indices(0, 0, T, S)

    def _part_of_indices(self, q_start, k_start, T: int, S: int) -> tuple[jax.Array, jax.Array]:
        if self.q_index_T is None or self.k_index_S is None:
            return jnp.arange(T) + q_start + self.q_offset, jnp.arange(S) + k_start
        return (
            lax.dynamic_slice_in_dim(self.q_index_T, q_start, T, 0),
            lax.dynamic_slice_in_dim(self.k_index_S, k_start, S, 0),
        )

    def _pad_indices(self, T: int, S: int) -> "Mask":
        if self.q_index_T is None or self.k_index_S is None:
            return self
        return dataclasses.replace(
            self,
            q_index_T=jnp.pad(self.q_index_T, (0, T - len(self.q_index_T)), mode="edge"),
            k_index_S=jnp.pad(self.k_index_S, (0, S - len(self.k_index_S)), mode="edge"),
        )

    def _pad_segments(self, T: int, S: int) -> "Mask":
        if self.q_segment_BT is None or self.k_segment_BS is None:
            return self
        q_more = ((0, 0), (0, T - self.q_segment_BT.shape[1]))
        k_more = ((0, 0), (0, S - self.k_segment_BS.shape[1]))
        return dataclasses.replace(
            self,
            q_segment_BT=jnp.pad(self.q_segment_BT, q_more),
            k_segment_BS=jnp.pad(self.k_segment_BS, k_more),
        )

    def draw(self, T: int, S: int, row: int = 0) -> str:
        """Returns the matrix of one row of the batch as text: x is seen, . is hidden."""
        seen_BTS = np.asarray(self.block(0, 0, T, S))
        seen_TS = seen_BTS[row if self.q_segment_BT is not None else 0]
        return "\n".join(" ".join("x" if seen else "." for seen in seen_S) for seen_S in seen_TS)


def _flatten(mask: Mask):
    static_offset = mask.q_offset if isinstance(mask.q_offset, int) else None
    traced_offset = mask.q_offset if static_offset is None else None
    arrays = (mask.q_segment_BT, mask.k_segment_BS, mask.q_index_T, mask.k_index_S, mask.plan)
    return (traced_offset, *arrays), (mask.causal, mask.window, static_offset)


def _unflatten(static, children) -> Mask:
    # Not through __init__: JAX also puts placeholders where the arrays were.
    causal, window, static_offset = static
    traced_offset, q_segment_BT, k_segment_BS, q_index_T, k_index_S, plan = children
    mask = object.__new__(Mask)
    object.__setattr__(mask, "causal", causal)
    object.__setattr__(mask, "window", window)
    object.__setattr__(mask, "q_offset", traced_offset if static_offset is None else static_offset)
    object.__setattr__(mask, "q_segment_BT", q_segment_BT)
    object.__setattr__(mask, "k_segment_BS", k_segment_BS)
    object.__setattr__(mask, "q_index_T", q_index_T)
    object.__setattr__(mask, "k_index_S", k_index_S)
    object.__setattr__(mask, "plan", plan)
    return mask


jax.tree_util.register_pytree_node(Mask, _flatten, _unflatten)
