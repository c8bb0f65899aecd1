"""`python -m llama_jax.distill`: a teacher answers instructions."""

import dataclasses
import ipaddress
import urllib.parse
from dataclasses import field
from typing import Literal

from llama_jax.config import idle
from llama_jax.config.data import TextConfig

MOST_LOGPROBS = 20  # OpenAI's API allows no more, nor does vLLM unless it is told to.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Who answers, where, and for how much."""

    model: str  # Required. As the host calls it: "togethercomputer/llama-2-70b-chat".
    # "together" sends one prompt to URL/inference, as Together's API was; "openai" sends messages
    # to URL/chat/completions, as OpenAI's API and most servers have it.
    api: Literal["together", "openai"] = "together"
    url: str = "https://api.together.xyz"
    # The environment variable that holds the API key, which is written nowhere; "" sends none.
    key_variable: str = "TOGETHER_API_KEY"
    concurrency: int = 8  # Requests at the same time.
    connect_timeout: float = 10.0  # Seconds.
    timeout: float = 300.0  # Seconds for one whole request, however slowly its answer drips.
    # Currency units for a million tokens that are read and written; 0 shows no cost.
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self):
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; it must be at least 1.")
        for name in ("connect_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive seconds.")
        for name in ("price_in", "price_out"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        self._check_url()

    def _check_url(self) -> None:
        shown = self.url.rpartition("@")[2]  # What stands before it may be a password.
        try:
            parts = urllib.parse.urlsplit(self.url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # A port that is no number, half an IPv6 address.
            whole = False
        if not whole or parts.query or parts.fragment or "@" in self.url:
            raise ValueError(
                f"url is {shown!r}; it must be http(s)://host[:port][/path] and no more. A key "
                "comes from the environment: key_variable names the variable."
            )
        if parts.scheme == "http" and self.key_variable and not _is_near(parts.hostname or ""):
            raise ValueError(
                f"url is {shown!r}, which would send the key of key_variable unencrypted. Use "
                "https, or set key_variable to '' if the host wants no key."
            )


def _is_near(host: str) -> bool:
    """True of this machine and those of a private network: names without a dot are such."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """How the teacher writes: the released script's settings.

    "openai" sends top_k and repetition_penalty only if they are not neutral: OpenAI's own API
    refuses them, others understand them.
    """

    max_tokens: int = 1024
    temperature: float = 0.7
    top_p: float = 0.7
    top_k: int = 50  # 0 is neutral.
    repetition_penalty: float = 1.0  # 1 is neutral.
    stop: tuple[str, ...] = ("[INST]",)  # Where an answer ends, without these words.
    # Log-probabilities of so many most probable ids for each token of an answer, as vLLM has them;
    # 0 asks for none. See llama_jax/distillation/logprobs.py.
    top_logprobs: int = 0
    vocab: int = 0  # Ids that the student has; a reply with any other is refused.

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be in (0, 1].")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 or more.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be positive."
            )
        if "" in self.stop:
            raise ValueError("stop holds an empty text, at which every answer would end.")
        self._check_logprobs()

    def _check_logprobs(self) -> None:
        if not 0 <= self.top_logprobs <= MOST_LOGPROBS:
            raise ValueError(
                f"top_logprobs is {self.top_logprobs}; it must be in 0..{MOST_LOGPROBS}."
            )
        if not self.top_logprobs:
            idle.refuse_idle(self, ("vocab",), "top_logprobs is 0")
        elif self.vocab < self.top_logprobs:
            raise ValueError(
                f"vocab is {self.vocab} and top_logprobs {self.top_logprobs}; vocab must be the "
                "size of the student's vocabulary: --config.answer.vocab=32000 for Llama 2."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """What is done when no usable answer comes."""

    attempts: int = 6  # For one request, the first included.
    wait: float = 1.0  # Seconds before the second attempt; doubled for each one after it.
    longest_wait: float = 120.0  # Seconds; a host that asks for more ends the run.
    in_a_row: int = 50  # Failed attempts of all requests, without an answer between, end the run.

    def __post_init__(self):
        for name in ("attempts", "in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.wait <= self.longest_wait < float("inf"):
            raise ValueError(
                f"wait is {self.wait} and longest_wait {self.longest_wait}; they must be seconds, "
                "the first no more than the second."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """What is done about records that cannot be read."""

    on_error: Literal["stop", "skip"] = "stop"  # Or leave them out, and count them by reason.
    largest_skipped_share: float = 0.01  # As of TextConfig, in config/data.py.

    def __post_init__(self):
        self.as_of_texts()

    def as_of_texts(self) -> TextConfig:
        """Returns the same as the settings of a source of texts, which check it."""
        return TextConfig(**dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Asks every human turn of every conversation, and writes workdir/instructions.jsonl."""

    workdir: str  # Required: answers, the settings and what comes of them.
    # Required. Files of conversations, or a folder of them: the shapes are in
    # llama_jax/distillation/instructions.py.
    instructions: str
    teacher: TeacherConfig
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    text: ReadingConfig = field(default_factory=ReadingConfig)
    limit: int = 0  # Conversations that are asked, from the first on; 0 is all.
    # A database of Together's released script: what it answered is not asked again.
    old_database: str = ""

    def __post_init__(self):
        if self.limit < 0:
            raise ValueError(f"limit is {self.limit}; it must be 0 or more.")
        if not (wanted := self.answer.top_logprobs):
            return
        if self.teacher.api != "openai":
            raise ValueError(
                f"answer.top_logprobs is {wanted} but teacher.api is {self.teacher.api!r}, which "
                "sends no log-probabilities of ids; only --config.teacher.api=openai does."
            )
        if self.old_database:
            raise ValueError(
                f"answer.top_logprobs is {wanted} but the answers of old_database "
                f"{self.old_database!r} have no log-probabilities. Leave one of the two out."
            )
