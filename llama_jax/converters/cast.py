"""Changes the dtype of weights, and says so when a value does not survive it."""

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Returns `array` as `dtype`, rounded to nearest even; the same array if it has it already.

    Raises:
        ValueError: A finite value is beyond the range of `dtype` and would become infinite.
    """
    target = DTYPES[dtype]
    if array.dtype == target:
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # A NaN stays one.
        result = array.astype(target)
    if target.itemsize == 2 and (np.isinf(result) & ~np.isinf(array)).any():
        largest = float(ml_dtypes.finfo(target).max)
        raise ValueError(
            f"{name} holds values beyond {largest:.4g}, the largest {dtype}. Use --dtype=float32"
            f"{' or --dtype=bfloat16' if dtype == 'float16' else ''}."
        )
    return result
