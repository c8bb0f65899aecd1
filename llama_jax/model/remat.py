"""What the backward pass keeps from the forward pass, by name."""

from collections.abc import Callable

import jax

SAVED = {
    # A kernel of which other devices have parts is fetched again: all of them would be the model.
    "none": jax.checkpoint_policies.save_anything_except_these_names("fetched_kernel"),
    "minimal": jax.checkpoint_policies.save_only_these_names(
        "product", "attention_out", "attention_lse"
    ),
    "attention": jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse"),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["layer_input"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def remat(block: Callable, policy: str) -> Callable:
    """Returns `block` that recomputes in the backward pass what `policy` does not keep."""
    # Inside scan XLA cannot merge the recomputation away, so the barriers would only cost time.
    return jax.checkpoint(block, policy=SAVED[policy], prevent_cse=False)
