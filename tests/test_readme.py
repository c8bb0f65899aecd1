"""What the README says can be typed: every command parses, every Python block runs."""

import pathlib
import re
import shlex

import pytest
from test_configs import SCHEMAS, load_recipe

from llama_jax import convert, generate
from llama_jax.config import load
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import huggingface, huggingface_config
from llama_jax.core import tree
from llama_jax.model import llama
from llama_jax.planning import topology

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("launch/*.md"))]
COMMANDS = [
    (document.name, command)
    for document in DOCUMENTS
    for command in re.findall(
        r"python -m (llama_jax\.[^\n`|]+)", document.read_text().replace("\\\n", " ")
    )
]


@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=[c for _, c in COMMANDS])
def test_every_command_parses(document, command):
    module, *arguments = shlex.split(command, comments=True)
    name = module.removeprefix("llama_jax.")
    assert (ROOT / "llama_jax" / f"{name}.py").is_file(), f"there is no command {module}"
    if name == "convert":
        convert.parser().parse_args(arguments)
    elif name == "generate":
        generate.parser().parse_args(arguments)
    elif name == "plan":
        words = dict(word.removeprefix("--").partition("=")[::2] for word in arguments)
        topology.parse(words.pop("topology"))
        check_recipe("train", [f"--{k}={v}" for k, v in words.items() if k.startswith("config")])
    else:
        check_recipe(name, arguments)


def check_recipe(name: str, arguments: list[str]) -> None:
    """Checks that the recipe exists and has every setting that the command sets."""
    recipe, *settings = arguments
    config = load_recipe(ROOT / recipe.removeprefix("--config=")).get_config()
    for setting in settings:
        path, value = re.fullmatch(r"--config\.([\w.]+)=(.*)", setting).groups()
        *sections, last = path.split(".")
        section = config
        for part in sections:
            section = section[part]
        assert last in section, f"{path} is not a setting"
        kind = type(section[last])
        section[last] = value if kind in (str, type(None)) else kind(eval(value))
    load.parse(SCHEMAS[name], config)


def test_every_python_block_runs(tmp_path, monkeypatch, shared):
    folder = tmp_path / "runs" / "demo" / "huggingface"
    folder.mkdir(parents=True)
    tokenizer = shared / "tokenizers" / "llama2" / "tokenizer.model"
    (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    model = ModelConfig(
        layers=1, embed=16, mlp=16, heads=2, kv_heads=2, head_dim=8, vocab=32000, context=128
    )
    params = llama.create(model, ComputeConfig(), 0)
    huggingface.write(
        folder,
        huggingface_config.to_theirs(model, dtype="float32"),
        model,
        huggingface.reader_of(tree.named_leaves(params).__getitem__, model, "float32"),
    )
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_code_comes_early_and_the_page_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.startswith("```python") for line in lines[:20])
    assert len(lines) < 200
