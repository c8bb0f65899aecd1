"""Questions and answers for the demo's teacher, and those it never sees.

    python -m llama_jax.prepare --config=configs/demo_lessons.py

Needs runs/demo/instruct/lessons, which `make instruct-demo` writes first, and the demo's tokenizer.
Afterwards: configs/demo_teacher.py.

Expect: 3 seconds.
"""

from llama_jax.config import load
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig


def get_config():
    c = load.default(PrepareConfig)
    c.output = "runs/demo/instruct/data/lessons"
    for name in ("taught", "held_out"):
        path = f"runs/demo/instruct/lessons/{name}.jsonl"
        source = PrepareSourceConfig(path=path, record="prompt_completion")
        c.sources[name] = load.default(source)
    c.tokenizer_from = "use"
    c.tokenizer = "runs/demo/data/tokenizer"
    c.held_out = 0.0
    return c
