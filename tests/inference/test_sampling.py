import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.generate import GenerateConfig
from llama_jax.inference.sampling import Sampling, by_rank, choose, filtered, penalise

B, V = 3, 40


def random_logits(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, (B, V)), jnp.float32)


def kept(logits_BV, **settings):
    """The logits after temperature, top_k and top_p, each at its token again."""
    sampling = Sampling.of(GenerateConfig(**settings))
    sorted_BV, token_BV = by_rank(logits_BV / sampling.temperature)
    out = np.zeros(logits_BV.shape, np.float32)
    np.put_along_axis(out, np.asarray(token_BV), np.asarray(filtered(sorted_BV, sampling)), 1)
    return out


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 100])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_the_kept_tokens_and_their_logits_are_those_of_transformers(temperature, top_k, top_p):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    seen = np.array([[3, 5, 5], [0, 1, 2], [39, 3, 20]])
    seen_BV = np.zeros((B, V), bool)
    np.put_along_axis(seen_BV, seen, True, 1)
    logits_BV = random_logits()
    theirs = torch.tensor(np.asarray(logits_BV))
    steps = [process.RepetitionPenaltyLogitsProcessor(1.7)]
    steps += [process.TemperatureLogitsWarper(temperature)]
    steps += [process.TopKLogitsWarper(top_k)] if top_k else []
    steps += [process.TopPLogitsWarper(top_p)]
    for step in steps:
        theirs = step(torch.tensor(seen), theirs)
    penalised_BV = penalise(logits_BV, jnp.asarray(seen_BV), jnp.float32(1.7))
    ours = kept(penalised_BV, temperature=temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_a_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    logits_BV = jnp.asarray([[4.0, -4.0, 4.0, -4.0]])
    seen_BV = jnp.asarray([[True, True, False, False]])
    np.testing.assert_array_equal(
        penalise(logits_BV, seen_BV, jnp.float32(2)), [[2.0, -8.0, 4.0, -4.0]]
    )


def test_top_p_keeps_the_fewest_tokens_with_that_mass():
    logits_BV = jnp.log(jnp.asarray([[0.1, 0.5, 0.15, 0.25]]))
    for top_p, tokens in ((0.01, {1}), (0.49, {1}), (0.6, {1, 3}), (0.8, {1, 2, 3})):
        finite = np.isfinite(kept(logits_BV, temperature=1.0, top_p=top_p))[0]
        assert set(np.flatnonzero(finite)) == tokens


def test_top_p_counts_the_mass_of_what_top_k_left():
    logits_BV = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
    # Alone 0.4 + 0.3 >= 0.55 needs two; of the two left the first has 4/7 >= 0.55.
    finite = np.isfinite(kept(logits_BV, temperature=1.0, top_k=2, top_p=0.55))[0]
    assert set(np.flatnonzero(finite)) == {0}


def test_temperature_zero_is_the_argmax_whatever_the_key():
    logits_BV, none_BV = random_logits(), jnp.zeros((B, V), bool)
    for seed in range(3):
        token_B = choose(logits_BV, none_BV, keys(B, seed), Sampling.of(GenerateConfig()))
        np.testing.assert_array_equal(token_B, np.argmax(logits_BV, 1))


def test_tokens_are_drawn_as_often_as_they_are_likely():
    count, share = 4000, np.array([0.5, 0.2, 0.3])
    logits_BV = jnp.broadcast_to(jnp.log(jnp.asarray(share, jnp.float32)), (count, 3))
    sampling = Sampling.of(GenerateConfig(temperature=1.0))
    token_B = choose(logits_BV, jnp.zeros((count, 3), bool), keys(count), sampling)
    found = np.bincount(token_B, minlength=3) / count
    # Four standard deviations of a share of 4000 draws.
    np.testing.assert_allclose(found, share, atol=4 * np.sqrt(0.25 / count))


def test_settings_are_arguments_of_one_compiled_program():
    program = jax.jit(choose)
    logits_BV, none_BV = random_logits(), jnp.zeros((B, V), bool)
    for config in (
        GenerateConfig(),
        GenerateConfig(temperature=0.7, top_k=3),
        GenerateConfig(temperature=1.3, top_p=0.2, repetition_penalty=1.2),
    ):
        program(logits_BV, none_BV, keys(B), Sampling.of(config))
    assert program._cache_size() == 1
