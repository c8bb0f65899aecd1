"""The demo's student before and after, and its teacher, on questions that none has seen.

    python -m llama_jax.evaluate --config=configs/demo_instruct_evaluate.py

Perplexity of the right answers alone. Needs configs/demo_instruct.py and what comes before it.

Expect: perplexity of the right answers 351 before, 1.36 after, 1.22 the teacher (2026-11-21).
"""

from llama_jax.config import load
from llama_jax.config.data import SourceConfig
from llama_jax.config.evaluate import EvaluateConfig, EvaluatorConfig, SubjectConfig


def get_config():
    c = load.default(EvaluateConfig)
    c.workdir = "runs/demo/instruct/evaluation"
    for name, checkpoint in (
        ("student before", "runs/demo/extend"),
        ("student after", "runs/demo/instruct/student"),
        ("teacher", "runs/demo/instruct/teacher"),
    ):
        c.subjects[name] = load.default(SubjectConfig(checkpoint=checkpoint))
    c.tokenizer = "runs/demo/data/tokenizer"
    path = "runs/demo/instruct/data/lessons/held_out/train"
    answers = EvaluatorConfig(
        source=SourceConfig(path=path, loss="completion"),
        sequence_length=256,
        rows=-1,
        batch_size=1,
        buckets=1,
    )
    c.evaluators.answers = load.default(answers)
    c.compute.dtype = "float32"
    return c
