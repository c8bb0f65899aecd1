import pytest

from llama_jax.config.generate import GenerateConfig


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"max_length": -3}, "max_length is -3; it must be at least 1"),
        ({"temperature": -0.5}, "temperature is -0.5; it must be at least 0"),
        ({"temperature": float("nan")}, "temperature is nan; it must be"),
        ({"temperature": 1.0, "top_k": -1}, "top_k is -1; it must be at least 1, or 0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"temperature": 1.0, "top_p": 1.5}, r"top_p is 1.5; it must be in \(0, 1\]"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be positive"),
        ({"seed": -1}, "seed is -1; it must be in"),
        ({"top_k": 5}, "top_k is 5 but temperature is 0.*no effect. Set temperature"),
        ({"top_p": 0.9}, "top_p is 0.9 but temperature is 0.*no effect. Set temperature"),
        ({"stop": ("a", "")}, "stop holds an empty text"),
        ({"stop": "ab"}, "stop is 'ab'; it must be a tuple"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        GenerateConfig(**settings)
