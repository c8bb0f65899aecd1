import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.config.prepare import TokenizerTrainingConfig
from llama_jax.converters import huggingface, huggingface_config, run_directory
from llama_jax.core import files, tree
from llama_jax.model import llama
from llama_jax.text.training import train_tokenizer

TEXT = "the cat sat on the mat and the dog ran to the old mill. café 🦙 "
CONFIG = ModelConfig(
    layers=2, embed=32, mlp=48, heads=4, kv_heads=2, head_dim=8, vocab=320, context=64
)


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A folder with a small trained tokenizer; its model has more rows than it has pieces."""
    folder = tmp_path_factory.mktemp("words")
    data = train_tokenizer([TEXT * 20], TokenizerTrainingConfig(vocab=300))
    (folder / "tokenizer.model").write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def params():
    rng = np.random.default_rng(0)
    _, shapes = llama.abstract(CONFIG, ComputeConfig())
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


@pytest.fixture(scope="session")
def hugging(tmp_path_factory, words, params):
    """A Hugging Face folder of a random model, its tokenizer in it."""
    folder = tmp_path_factory.mktemp("hugging")
    config = huggingface_config.to_theirs(CONFIG, dtype="float32")
    read = huggingface.reader_of(tree.named_leaves(params).__getitem__, CONFIG, "float32")
    huggingface.write(folder, config, CONFIG, read)
    (folder / "tokenizer.model").write_bytes((words / "tokenizer.model").read_bytes())
    files.write_json(folder / "generation_config.json", {"eos_token_id": [2, 7]})
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory, words, params):
    """A converted folder of the same model, at step 0."""
    folder = tmp_path_factory.mktemp("run")
    run_directory.write(folder, CONFIG, tree.named_leaves(params).__getitem__)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.model").write_bytes((words / "tokenizer.model").read_bytes())
    return folder
