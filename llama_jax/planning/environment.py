"""The process of a planner: it compiles for accelerators and must never touch one.

Imports no JAX: what stands here must happen before JAX is imported.
"""

import os
import sys

# libtpu asks these before it compiles; without a TPU it would search the network for answers.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Several planners may run at once.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def without_accelerators() -> None:
    """Sets what keeps JAX, libtpu and CUDA away from real devices; call before importing JAX.

    Raises:
        ValueError: JAX is imported already, and for other platforms than the CPU.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_platforms != "cpu":
        raise ValueError(
            "jax was imported before the planner, so it may hold an accelerator (jax_platforms is "
            f"{jax.config.jax_platforms!r}). Start the planner in a process of its own: "
            "python -m llama_jax.plan ..., or set JAX_PLATFORMS=cpu."
        )
    os.environ.update(ENVIRONMENT)
