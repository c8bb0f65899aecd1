import dataclasses

import pytest

from llama_jax.config import presets
from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.core import tree
from llama_jax.model import llama
from llama_jax.model.lora import divide
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


def test_adapters_leave_out_the_gradients_of_the_base():
    lora = LoraConfig(r=8)  # q and v of 7B: 4,194,304, as PEFT counts them.
    assert flops.adapter_parameters(presets.LLAMA2_7B, lora) == 4_194_304
    whole, adapted = (flops.per_token(presets.LLAMA2_7B, 4096, "full", x) for x in (None, lora))
    assert whole - adapted == 2 * 6_607_077_376 - 6 * 4_194_304
    # As many as there are, but for the embedding's table.
    model = dataclasses.replace(presets.LLAMA2_70B, layers=2)
    everything = LoraConfig(r=8, targets=("*",))
    adapters, _ = divide(llama.abstract(model, ComputeConfig(), lora=everything)[1])
    counted = flops.adapter_parameters(model, everything)
    assert tree.size(adapters) == counted + 8 * model.vocab


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


@pytest.mark.parametrize(
    ("remat", "attention", "expected"),
    [
        # L=2, D=8, N=2, K=1, H=4, F=16, T=10: one product of attention is 2 x 2 x 2 x 4 x 5 = 160;
        # q, k, v, o are 2 x 8 x 3 x 4 = 192, gate and up 256: twice both, two layers, is 1792.
        ("none", "reference", 0),
        ("none", "chunked", 160),
        ("minimal", "chunked", 160),
        ("attention", "chunked", 160 + 1792),
        ("full", "chunked", 3 * 160 + 1792),
        ("offload", "chunked", 3 * 160 + 1792),
    ],
)
def test_what_each_remat_policy_computes_again(remat, attention, expected):
    model = ModelConfig(
        layers=2, embed=8, mlp=16, heads=2, kv_heads=1, head_dim=4, vocab=32, context=10
    )
    compute = ComputeConfig(remat=remat, attention=attention)
    assert flops.recomputed_per_token(model, compute, 10, "causal") == expected


def test_a_decoded_token_multiplies_every_matrix_once_and_attends_to_the_cache():
    model = ModelConfig(
        layers=2, embed=8, mlp=16, heads=2, kv_heads=1, head_dim=4, vocab=32, context=10
    )
    # N_mm = 2 (192 + 3 x 8 x 16) + 8 x 32 = 1408; scores and their product with v: 4 x 2 x 2 x 4.
    assert flops.per_decoded_token(model, 10) == 2 * 1408 + 10 * 64
