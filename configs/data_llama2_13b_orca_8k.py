r"""The data of llama2-13b-orca-8k-3319: orca-chat, fan fiction, the RedPajama sample.

    python -m llama_jax.prepare --config=configs/data_llama2_13b_orca_8k.py \
        --config.tokenizer=Llama-2-13b-hf --config.sources.orca_chat.path=orca-chat-gpt4.json

As https://huggingface.co/OpenAssistant/llama2-13b-orca-8k-3319 says: conversations in
Open-Assistant's form with <|system|>, <|prompter|> and <|assistant|>, of which longer ones than
8,192 tokens are read through a window at a random place (0.8) or lose their end. mask="compat" is
what was learned then, also what the system says; "fixed" learns answers alone. The rest is text.
configs/llama2_13b_orca_8k.py mixes and trains.

Expect: not measured on the whole sets.
"""

from llama_jax.config import load
from llama_jax.config.chat import ChatConfig
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig


def get_config():
    c = load.default(PrepareConfig)
    c.output = "runs/data/llama2_13b_orca_8k"

    # Tokens: the ids of the released model; 32,006 with <pad>, padded to 32,016 by the model.
    c.tokenizer_from = "use"
    c.tokenizer = "Llama-2-13b-hf"
    c.added_tokens = (
        "<pad>",
        "<|assistant|>",
        "<|prefix_end|>",
        "<|system|>",
        "<|prefix_begin|>",
        "<|prompter|>",
    )
    c.text.on_error = "quarantine"
    c.held_out = 0.0  # The training recipe keeps so many documents back as the card says.

    oasst = ChatConfig(
        template="oasst",
        mask="compat",
        max_length=8192,
        overlong="window",
        window_probability=0.8,
    )
    sources = {
        "orca_chat": PrepareSourceConfig(
            path="orca-chat-gpt4.json", record="orca_chat", chat=oasst
        ),
        "fanfics": PrepareSourceConfig(path="fanfics", field="TEXT"),
        "red_pajama": PrepareSourceConfig(path="RedPajama-Data-1T-Sample"),
    }
    c.sources = {name: load.default(source) for name, source in sources.items()}
    return c
