import dataclasses

import pytest

from llama_jax.config import presets
from llama_jax.telemetry import flops


def test_llama2_7b_has_6_607_billion_parameters_in_matrices():
    assert flops.matrix_parameters(presets.LLAMA2_7B) == 6_607_077_376


@pytest.mark.parametrize(
    ("length", "convention", "gigaflops"),
    [
        (4096, "full", 46.08),
        (4096, "causal", 42.86),
        (32768, "full", 91.18),
        (32768, "causal", 65.41),
    ],
)
def test_llama2_7b_costs_what_is_published_for_it(length, convention, gigaflops):
    per_token = flops.per_token(presets.LLAMA2_7B, length, convention)
    assert per_token / 1e9 == pytest.approx(gigaflops, abs=0.006)


def test_a_tied_head_costs_as_much_as_one_of_its_own():
    tied = dataclasses.replace(presets.LLAMA2_7B, tie_embeddings=True)
    assert flops.per_token(tied, 4096, "full") == flops.per_token(presets.LLAMA2_7B, 4096, "full")


def test_grouped_queries_share_keys_but_still_attend_one_by_one():
    many = presets.LLAMA2_7B
    grouped = dataclasses.replace(many, kv_heads=8)
    saved = 6 * many.layers * 2 * many.embed * 24 * many.head_dim
    difference = flops.per_token(many, 4096, "full") - flops.per_token(grouped, 4096, "full")
    assert difference == saved


@pytest.mark.parametrize("window", [1, 5, 64, 1000])
def test_a_window_counts_only_the_keys_it_reaches(window):
    model = dataclasses.replace(presets.LLAMA2_7B, window=window)
    length = 64
    # A query that sees the query itself plus half of it on average: (keys - 1/2) without the
    # diagonal's other half, which is the same rounding that turns (S + 1) / 2 into S / 2.
    exact = sum(min(query + 0.5, window) for query in range(length)) / length
    assert flops.attended_keys(model, length, "causal") == pytest.approx(exact)
    assert flops.attended_keys(model, length, "full") == min(window, length)


def test_a_window_as_long_as_the_row_changes_nothing():
    model = dataclasses.replace(presets.LLAMA2_7B, window=4096)
    for convention in ("causal", "full"):
        unlimited = flops.per_token(presets.LLAMA2_7B, 4096, convention)
        assert flops.per_token(model, 4096, convention) == unlimited
