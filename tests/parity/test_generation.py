"""Greedy tokens are transformers' greedy tokens, with its cache and its generate().

Every model is small, random, made by transformers and saved by it.
"""

import pytest

from llama_jax.config.generate import GenerateConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.converters.huggingface import Folder
from llama_jax.inference.generate import Generator

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.torch,
    # torch.jit and numpy's aliases, inside the libraries that are compared with.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,  # So large that the most likely token is clearly that.
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral_window": {"model_type": "mistral", "sliding_window": 6, "num_key_value_heads": 2},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 24,
        }
    },
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "original_max_position_embeddings": 24,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
    },
}
PROMPTS = [[1, 7, 31, 90, 4, 55, 4, 20, 12, 66, 83], [1, 45, 13]]
NEW = 50


def make(folder, model_type="llama", **fields):
    """Returns the same random model as transformers' and as ours."""
    config = transformers.AutoConfig.for_model(model_type, **SHAPE, **fields)
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    theirs.save_pretrained(folder)
    read = Folder(folder)
    return theirs, Generator(read.model, ComputeConfig(dtype="float32"), read.params(), [2])


def expected(model, prompt, **settings):
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                         pad_token_id=0, **settings)  # fmt: skip
    return out[0, len(prompt) :].tolist()


def ours(generator, prompts, **settings):
    rows = [[] for _ in prompts]
    for block in generator.continuations(prompts, GenerateConfig(**settings)):
        for row, new in zip(rows, block, strict=True):
            row.extend(new)
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(name, tmp_path):
    model, generator = make(tmp_path, **MODELS[name])
    want = [expected(model, prompt, max_new_tokens=NEW) for prompt in PROMPTS]
    assert ours(generator, PROMPTS, max_new_tokens=NEW) == want


def test_penalty_and_lengths_are_those_of_transformers(tmp_path):
    model, generator = make(tmp_path)
    for settings in (
        {"max_new_tokens": 30, "repetition_penalty": 1.5},
        {"max_length": 20},
        {"max_length": 20, "max_new_tokens": 15},
    ):
        assert ours(generator, PROMPTS[:1], **settings) == [expected(model, PROMPTS[0], **settings)]
