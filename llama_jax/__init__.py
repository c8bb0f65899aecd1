"""Llama-2-class models at long context in JAX: train, extend, convert, sample."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports `load` when it is first asked for: `import llama_jax` stays instant."""
    if name != "load":
        raise AttributeError(f"module 'llama_jax' has no attribute {name!r}")
    from llama_jax.serving.load import load

    return load
