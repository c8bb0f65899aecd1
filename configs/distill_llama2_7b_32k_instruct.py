r"""The instructions of LLaMA-2-7B-32K-Instruct: Llama-2-70B-chat answers what people asked.

    export TOGETHER_API_KEY=...
    python -m llama_jax.distill --config=configs/distill_llama2_7b_32k_instruct.py \
        --config.instructions=sharegpt.json

Sends what Together's released script sent, to the API that it used. To any other host:

    --config.teacher.api=openai --config.teacher.url=https://HOST/v1 --config.teacher.model=... \
        --config.teacher.key_variable=NAME

Expect: not measured. The released set has 19 thousand conversations in 104 MB. The same command
continues after a stop; with the released script's database, --config.old_database=results.db.
Afterwards runs/distill/llama2_7b_32k_instruct/instructions.jsonl is the path of a source
(--config.sources.instruct.path) of llama_jax.prepare.
"""

from llama_jax.config import load
from llama_jax.config.distill import DistillConfig


def get_config():
    c = load.default(DistillConfig)
    c.workdir = "runs/distill/llama2_7b_32k_instruct"
    c.instructions = "sharegpt.json"
    # Records of other tools, broken lines: left out and counted.
    c.text.on_error = "skip"

    c.teacher.model = "togethercomputer/llama-2-70b-chat"
    c.teacher.api = "together"
    c.teacher.url = "https://api.together.xyz"
    c.teacher.key_variable = "TOGETHER_API_KEY"
    c.teacher.concurrency = 8

    # The released script's sampling.
    c.answer.max_tokens = 1024
    c.answer.temperature = 0.7
    c.answer.top_p = 0.7
    c.answer.top_k = 50
    c.answer.repetition_penalty = 1.0
    c.answer.stop = ("[INST]",)
    return c
