r"""The data of LLaMA-2-7B-32K's first phase: books, arXiv, other RedPajama, UL2 dialogues.

    python -m llama_jax.prepare --config=configs/data_llama2_7b_32k_phase1.py \
        --config.tokenizer=Llama-2-7b-hf --config.sources.books.path=data/redpajama/book \
        --config.decontaminate.sets=data/eval_sets

A quarter of the rows each (https://www.together.ai/blog/llama-2-7b-32k):
configs/llama2_7b_32k_phase1.py mixes and trains. Documents of fewer than 2,000 words are left out,
and UL2's dialogues are made of web pages of any length. Which web pages Together took is not
published.

Expect: not measured on the whole sets.
"""

from llama_jax.config import load
from llama_jax.config.building import BuildConfig
from llama_jax.config.cleaning import FilterConfig
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig


def get_config():
    c = load.default(PrepareConfig)
    c.output = "runs/data/llama2_7b_32k_phase1"

    # Tokens: BOS, a line end, the text; no EOS. As the released model was trained.
    c.tokenizer_from = "use"
    c.tokenizer = "Llama-2-7b-hf"
    c.text.before = "\n"
    c.text.add_eos = False
    c.text.on_error = "quarantine"
    c.held_out = 0.0

    long = FilterConfig(min_words=2000)
    sources = {
        "books": PrepareSourceConfig(path="data/redpajama/book", filters=long),
        "arxiv": PrepareSourceConfig(path="data/redpajama/arxiv", filters=long, latex=True),
        "redpajama": PrepareSourceConfig(
            path="data/redpajama", exclude=("book", "arxiv"), filters=long
        ),
        "ul2": PrepareSourceConfig(path="data/oscar_en", build=BuildConfig(kind="ul2")),
    }
    c.sources = {name: load.default(source) for name, source in sources.items()}
    return c
