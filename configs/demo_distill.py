"""The demo's teacher answers questions over HTTP, as a large model would.

    python -m llama_jax.distill --config=configs/demo_distill.py --config.teacher.url=http://HOST:PORT

`make instruct-demo` serves the teacher on this machine and sets the address.

Expect: 19 seconds for 1,500 questions (2 cores of an AMD EPYC, 2026-11-21).
"""

from llama_jax.config import load
from llama_jax.config.distill import DistillConfig


def get_config():
    c = load.default(DistillConfig)
    c.workdir = "runs/demo/instruct/distilled"
    c.instructions = "runs/demo/instruct/lessons/asked.json"
    c.teacher.model = "demo-teacher"
    c.teacher.url = "http://127.0.0.1:8000"
    c.teacher.key_variable = ""  # It wants no key.
    c.answer.max_tokens = 16
    c.answer.temperature = 0.0
    c.answer.top_p = 1.0
    c.answer.top_k = 0
    return c
