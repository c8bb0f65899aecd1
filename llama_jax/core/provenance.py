"""What a result was made with, as it is written beside it."""

from typing import Any

from llama_jax.core import versions


def provenance() -> dict[str, Any]:
    """Returns {"commit": ..., "versions": {package: version}}."""
    return {"commit": versions.commit(), "versions": versions.versions()}
