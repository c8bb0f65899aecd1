"""What one optimizer step reads."""

import dataclasses
from typing import Any

import jax
import numpy as np

Array = Any  # [B, T]: a jax.Array on the devices, an np.ndarray on the host.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """B rows of T tokens and what is to be predicted after each of them.

    Always true:
        target[b, t] is the token that follows token[b, t] in the stream of documents
        segment >= 1 where there is a token; 0 marks padding, which nothing attends to
        position[b, t] counts from 0 at the first token of t's segment in this row
        weight is 0 at padding, and where target belongs to another segment than token; else 1
    """

    token_BT: Array  # i32
    target_BT: Array  # i32
    position_BT: Array  # i32
    segment_BT: Array  # i32
    weight_BT: Array  # f32


def stack(rows: list[Batch]) -> Batch:
    """Returns rows [T] as one batch [B, T]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def padding(length: int) -> Batch:
    """Returns a row [T] in which there is nothing."""
    zero = np.zeros(length, np.int32)
    return Batch(zero, zero, zero, zero, np.zeros(length, np.float32))


def place(
    local: Batch, rows: np.ndarray, shape: tuple[int, int], sharding: jax.sharding.Sharding
) -> Batch:
    """Returns this process's rows as global arrays [B, T].

    Args:
        local: Host arrays [len(rows), T].
        rows: Which rows of the global batch they are, ascending.
        shape: B and T.
        sharding: Of the global arrays; this process must hold the rows its devices need.
    """
    indices = _indices(shape, sharding)

    def shard(leaf: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        first, stop, _ = index[0].indices(shape[0])
        here = int(np.searchsorted(rows, first))
        return leaf[here : here + stop - first, index[1]]

    def put(leaf: np.ndarray) -> jax.Array:
        # Device by device: an explicit transfer, which jax.transfer_guard("disallow") lets pass.
        shards = [shard(leaf, index) for index in indices.values()]
        arrays = jax.device_put(shards, list(indices))
        return jax.make_array_from_single_device_arrays(shape, sharding, arrays)

    return jax.tree.map(put, local)


def rows_of_this_process(shape: tuple[int, int], sharding: jax.sharding.Sharding) -> np.ndarray:
    """Returns the rows of a global batch that this process's devices hold, ascending.

    Raises:
        ValueError: The batch does not divide over the devices.
    """
    try:
        indices = _indices(shape, sharding)
    except ValueError as error:
        raise ValueError(
            f"a batch of {shape[0]} rows of {shape[1]} tokens does not divide over the devices "
            f"({error}). Set data.batch_size to a multiple of the devices that split the batch."
        ) from None
    held = {row for index in indices.values() for row in range(*index[0].indices(shape[0]))}
    return np.array(sorted(held))


def _indices(
    shape: tuple[int, int], sharding: jax.sharding.Sharding
) -> dict[jax.Device, tuple[slice, ...]]:
    """Returns which part of a global array each device of this process holds."""
    found = sharding.addressable_devices_indices_map(shape)
    return {device: index for device, index in found.items() if index is not None}
