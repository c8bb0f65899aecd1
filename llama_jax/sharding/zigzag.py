"""The order of a row's tokens when a causal sequence is split over devices.

A later query sees more keys, so contiguous parts would leave the last device with twice the mean
work. The row is cut into 2 P chunks, and device p of P holds chunks p and 2 P - 1 - p; P = 2:

    row       0 1 2 3 4 5 6 7
    stored    0 1 6 7 2 3 4 5
    device    0 0 0 0 1 1 1 1

Every pair of chunks meets as many keys as every other (Llama 3, arXiv:2407.21783, section 3.3.2).
The loader stores rows in this order once; nothing is permuted later.
"""

import numpy as np


def order(T: int, parts: int) -> np.ndarray:
    """Returns i32 [T]: which token of the row is stored at each place; 0..T-1 for one part.

    Raises:
        ValueError: T does not divide into 2 * parts chunks.
    """
    if parts == 1:
        return np.arange(T, dtype=np.int32)
    if T % (2 * parts):
        raise ValueError(
            f"a sequence of {T} tokens cannot be split over {parts} devices, which take two equal "
            f"chunks each. Use a sequence length that is a multiple of {2 * parts}, or another "
            "config.mesh.context."
        )
    chunks = np.arange(T, dtype=np.int32).reshape(2 * parts, -1)
    return np.concatenate([chunks[[p, 2 * parts - 1 - p]].ravel() for p in range(parts)])
