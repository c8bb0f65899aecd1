"""Runs every test on eight CPU devices, with JAX's strict modes on."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

# Tests compile much and compute little: skip LLVM's optimisation, emit loops the plain way (which
# halves the time to compile a step), and compile nothing twice. In the environment, so that the
# processes which tests start do the same.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="llama_jax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Hypothesis keeps what it finds out about the code in the working directory otherwise.
if "HYPOTHESIS_STORAGE_DIRECTORY" not in os.environ:
    FOUND = tempfile.TemporaryDirectory(prefix="llama_jax-hypothesis-")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = FOUND.name

import hypothesis
import jax
import pytest

# The same examples each time, on however slow a machine.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("same")

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


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Drops what a file compiled: no other file needs it, and all of it together is gigabytes."""
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that start processes first: no worker ends up with one of them alone."""
    items.sort(key=lambda item: item.get_closest_marker("process") is None)
