"""A model with its tokenizer: text in, text out.

Dimensions: B batch, T tokens, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from llama_jax.config.generate import GenerateConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.inference.continuation import Continuation
from llama_jax.inference.generate import BLOCK, Generator
from llama_jax.model import llama
from llama_jax.model.llama import Params
from llama_jax.text.tokenizer import Tokenizer, check_vocabulary


class LanguageModel:
    """What `llama_jax.load` returns. Matrices are multiplied, and the cache is kept, in `dtype`.

    `end_ids` are ids that end a text besides the tokenizer's EOS.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        *,
        dtype: str,
        end_ids: Iterable[int] = (),
    ):
        check_vocabulary(tokenizer, config.vocab)
        self.config, self.params, self.tokenizer = config, params, tokenizer
        compute = ComputeConfig(param_dtype=dtype, dtype=dtype)  # type: ignore[arg-type]
        self._generator = Generator(config, compute, params, {tokenizer.eos_id, *end_ids})
        graph, _ = llama.abstract(config, compute)
        self._logits = jax.jit(lambda params, token_BT: llama.merge(graph, params)(token_BT))

    @overload
    def generate(self, prompt: str, **settings: Any) -> str: ...
    @overload
    def generate(self, prompt: list[str], **settings: Any) -> list[str]: ...
    def generate(self, prompt, **settings):
        """Returns the continuation of a prompt, or of each prompt of a list; not the prompt itself.

        BOS is put before each prompt, so "" continues from nothing.

        Args:
            prompt: A text, or a list of texts, which are continued together.
            **settings: `max_new_tokens`, `max_length`, `temperature`, `top_k`, `top_p`,
                `repetition_penalty`, `stop` (a text or several) and `seed`; see `GenerateConfig`.

        Raises:
            ValueError: A setting is out of range, or a prompt is as long as the context.
        """
        config = _config(settings)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        texts = ["".join(row) for row in zip(*self._pieces(prompts, config, BLOCK), strict=True)]
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, **settings: Any) -> Iterator[str]:
        """Yields the text that `generate` returns, each piece as soon as it is certain.

        Raises:
            ValueError: As `generate`, before the first piece is asked for.
        """
        pieces = self._pieces([prompt], _config(settings), 1)
        return (piece for (piece,) in pieces if piece)

    def logits(self, token_ids: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> jax.Array:
        """Returns next-token logits, f32[T, V] of ids [T], or f32[B, T, V] of ids [B, T].

        Raises:
            ValueError: There are no ids, more than the context, or one is not in the vocabulary.
        """
        token_BT = np.atleast_2d(np.asarray(token_ids))
        if token_BT.ndim != 2 or not token_BT.size or token_BT.dtype.kind not in "iu":
            raise ValueError("token_ids must be one or more integers, or rows of equal length.")
        if token_BT.shape[1] > self.config.context:
            raise ValueError(
                f"token_ids has rows of {token_BT.shape[1]} tokens; the model has a context of "
                f"{self.config.context}."
            )
        if token_BT.min() < 0 or token_BT.max() >= self.config.vocab:
            raise ValueError(
                f"token_ids has ids from {token_BT.min()} to {token_BT.max()}; they must be in "
                f"[0, {self.config.vocab})."
            )
        logits_BTV = self._logits(self.params, jnp.asarray(token_BT, jnp.int32))
        return logits_BTV if np.ndim(token_ids) == 2 else logits_BTV[0]

    def _pieces(
        self, prompts: list[str], config: GenerateConfig, block: int
    ) -> Iterator[list[str]]:
        """Checks, then returns an iterator of the next piece of text of every row."""
        ids = self.tokenizer.encode_all(prompts, bos=True)
        rows = [Continuation(self.tokenizer, prompt, config.stop) for prompt in ids]
        return _decoded(self._generator.continuations(ids, config, block), rows)


def _decoded(blocks: Iterator[list[list[int]]], rows: list[Continuation]) -> Iterator[list[str]]:
    ended: set[int] = set()
    for block in blocks:
        yield [row.push(ids) for row, ids in zip(rows, block, strict=True)]
        ended |= {i for i, row in enumerate(rows) if row.stopped}
        if len(ended) == len(rows):
            break
    yield [row.finish() for row in rows]


def _config(settings: dict[str, Any]) -> GenerateConfig:
    stop = settings.get("stop", ())
    return GenerateConfig(**{**settings, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
