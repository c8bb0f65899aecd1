"""A process that compiles for accelerators and must never touch one.

Imports no JAX: what stands here must happen before JAX is imported.
"""

import importlib.util
import os
import sys

# libtpu asks these before it compiles; without a TPU it would search the network for answers.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Several may compile at once.
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
            "jax was imported before what keeps it away from accelerators, so it may hold one "
            f"(jax_platforms is {jax.config.jax_platforms!r}). Use a process of its own: "
            "python -m llama_jax.plan ..., or set JAX_PLATFORMS=cpu."
        )
    os.environ.update(ENVIRONMENT)


def need(module: str, platform: str) -> None:
    """Checks that a compiler is installed.

    Raises:
        ValueError: It is not; the message says what to type.
    """
    if not _installed(module):
        raise ValueError(
            f"compiling for {platform} needs {module}, which is not installed. Type: "
            "pip install -c constraints.txt -e '.[plan]'. That brings compilers alone; no driver "
            "and no accelerator is needed."
        )


def _installed(module: str) -> bool:
    parent = module.partition(".")[0]
    if importlib.util.find_spec(parent) is None:
        return False
    return importlib.util.find_spec(module) is not None
