"""What the demo's student learns from: the teacher's answers, questions over documents, summaries.

    python -m llama_jax.prepare --config=configs/demo_instruct_data.py

In the form of configs/data_llama2_7b_32k_instruct.py; documents and summaries are modules of
Python's standard library and what their first lines say. Afterwards: configs/demo_instruct.py.

Expect: 3 seconds.
"""

from llama_jax.config import load
from llama_jax.config.data import QuestionConfig
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig

FOLDER = "runs/demo/instruct"


def get_config():
    c = load.default(PrepareConfig)
    c.output = f"{FOLDER}/data/mixed"
    sources = {
        "instruct": PrepareSourceConfig(path=f"{FOLDER}/distilled/instructions.jsonl"),
        "mqa": PrepareSourceConfig(
            path=f"{FOLDER}/lessons/mqa.jsonl",
            record="lost_in_the_middle",
            questions=QuestionConfig(least_documents=3, most_documents=3),
        ),
        "booksum": PrepareSourceConfig(
            path=f"{FOLDER}/lessons/booksum", record="booksum", pattern="*.jsonl"
        ),
    }
    c.sources = {name: load.default(source) for name, source in sources.items()}
    c.tokenizer_from = "use"
    c.tokenizer = "runs/demo/data/tokenizer"
    c.held_out = 0.0
    return c
