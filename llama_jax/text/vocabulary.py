"""Which row of a trained model's vocabulary belongs to which id of a tokenizer.

    old    0 <unk>  1 <s>  2 </s>  ...  32001 <|assistant|>  32005 <|prompter|>   32006 32007 ...
    new    0 <unk>  1 <s>  2 </s>  ...  32001 <|prompter|>   32002 <|assistant|>  32003 ...
    row    0        1      2            32005                32001                32006

A token is known by its name. Rows beyond those of the tokenizer have none (padding, the ids of
denoisers) and keep their order.
"""

import numpy as np

from llama_jax.text.tokenizer import Tokenizer


def rows(old: Tokenizer, new: Tokenizer, old_size: int, new_size: int) -> np.ndarray:
    """Returns i32 [new_size]: the old row of each new id; -1 if there is none.

    Args:
        old: The tokenizer that the model was trained with.
        new: The one that it is to be used with.
        old_size: How many rows the model has.
        new_size: How many it is to have.
    """
    row = np.full(new_size, -1, np.int32)
    known = old.pieces
    for name, id in new.pieces.items():
        row[id] = known.get(name, -1)
    unnamed = min(new_size - new.vocab_size, old_size - old.vocab_size)
    if unnamed > 0:
        first = new.vocab_size
        row[first : first + unnamed] = np.arange(old.vocab_size, old.vocab_size + unnamed)
    return row


def same_rows(old_size: int, new_size: int) -> np.ndarray:
    """Returns i32 [new_size]: the rows in the order that they have."""
    row = np.arange(new_size, dtype=np.int32)
    return np.where(row < old_size, row, -1).astype(np.int32)
