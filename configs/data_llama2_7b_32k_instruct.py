r"""The data of Llama-2-7B-32K-Instruct: distilled conversations, BookSum, multi-document questions.

    python -m llama_jax.prepare --config=configs/data_llama2_7b_32k_instruct.py \
        --config.tokenizer=LLaMA-2-7B-32K --config.sources.booksum.path=booksum

Half of the documents are conversations that a larger model answered
(configs/distill_llama2_7b_32k_instruct.py), a quarter each summaries and questions
(https://huggingface.co/togethercomputer/Llama-2-7B-32K-Instruct), drawn by the seed. Of 19,000
conversations and BookSum's 9,713 pairs there are so many; with fewer set sources.NAME.documents. A
pair of BookSum whose texts are missing is counted and left out. configs/llama2_7b_32k_instruct.py
mixes and trains.

Expect: not measured on the whole sets.
"""

from llama_jax.config import load
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig


def get_config():
    c = load.default(PrepareConfig)
    c.output = "runs/data/llama2_7b_32k_instruct"

    # Tokens: BOS, a line end, the text; no EOS. As the model it starts from was trained.
    c.tokenizer_from = "use"
    c.tokenizer = "LLaMA-2-7B-32K"
    c.text.before = "\n"
    c.text.add_eos = False
    c.text.on_error = "skip"
    c.held_out = 0.0

    sources = {
        "instruct": PrepareSourceConfig(
            path="runs/distill/llama2_7b_32k_instruct/instructions.jsonl", documents=18_000
        ),
        "booksum": PrepareSourceConfig(
            path="booksum", record="booksum", pattern="**/*.jsonl", documents=9000
        ),
        "mqa": PrepareSourceConfig(
            path="long-data-collections/fine-tune/natural_questions_10_200_docs",
            record="multi_document_qa",
            documents=9000,
        ),
    }
    c.sources = {name: load.default(source) for name, source in sources.items()}
    return c
