r"""The data of LLaMA-2-7B-32K's second phase: examples in long contexts, and long documents.

    python -m llama_jax.prepare --config=configs/data_llama2_7b_32k_phase2.py \
        --config.tokenizer=Llama-2-7b-hf --config.decontaminate.sets=data/helm \
        --config.sources.natural_instructions.path=natural-instructions/tasks

A fifth of the rows each (https://www.together.ai/blog/llama-2-7b-32k): Natural Instructions and P3,
as many examples of one task as fill 32,768 tokens, the Pile, books, arXiv. Examples that share 13
words in a row with an evaluation set (HELM's core scenarios, as folders of instances.json) are left
out before they are packed. Train with configs/llama2_7b_32k_phase2.py.

Expect: not measured on the whole sets.
"""

from llama_jax.config import load
from llama_jax.config.building import BuildConfig
from llama_jax.config.cleaning import FilterConfig
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig


def get_config():
    c = load.default(PrepareConfig)
    c.output = "runs/data/llama2_7b_32k_phase2"

    # Tokens: BOS, a line end, the text; no EOS. As the released model was trained.
    c.tokenizer_from = "use"
    c.tokenizer = "Llama-2-7b-hf"
    c.text.before = "\n"
    c.text.add_eos = False
    c.text.on_error = "quarantine"
    c.decontaminate.sets = "data/helm"
    c.held_out = 0.0

    packed = BuildConfig(kind="fewshot", length=32_768)
    long = FilterConfig(min_words=2000)
    sources = {
        "natural_instructions": PrepareSourceConfig(
            path="natural-instructions/tasks",
            pattern="**/*task*.json",
            record="natural_instructions",
            build=packed,
        ),
        "p3": PrepareSourceConfig(path="data/p3", record="p3", build=packed),
        "pile": PrepareSourceConfig(path="data/pile"),
        "books": PrepareSourceConfig(path="data/redpajama/book", filters=long),
        "arxiv": PrepareSourceConfig(path="data/redpajama/arxiv", filters=long, latex=True),
    }
    c.sources = {name: load.default(source) for name, source in sources.items()}
    return c
