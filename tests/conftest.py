"""Runs every test on eight CPU devices, with JAX's strict modes on."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).parents[1]
SHARED = pathlib.Path(os.environ.get("LLAMA_JAX_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data and really trained weights; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder of real weights and texts at {SHARED}; set LLAMA_JAX_SHARED")
    return SHARED
