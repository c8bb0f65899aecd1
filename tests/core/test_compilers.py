"""A process that only compiles stays away from accelerators."""

import os

import jax
import pytest

from llama_jax.core import compilers


def test_jax_on_cpus_is_accepted_and_libtpu_is_told_to_search_nothing(monkeypatch):
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    compilers.without_accelerators()
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"


def test_jax_that_may_hold_an_accelerator_is_refused():
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cuda,cpu")
    try:
        with pytest.raises(ValueError, match="imported before what keeps it away"):
            compilers.without_accelerators()
    finally:
        jax.config.update("jax_platforms", before)
