"""How well a model predicts held-out rows, overall and by position in the row.

    row     [0 ........ T/b) [T/b ..... 2T/b) ...        b buckets of T/b positions
    loss    of a bucket: sum of weight * -log p(target) over its tokens / sum of weight

Sums are kept per position on the device, f32[T], and fetched once at the end: whatever is asked of
them later (total, buckets) is the same numbers added up.

Dimensions: B rows, T tokens, D embed, V vocab.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llama_jax.config.data import TextConfig
from llama_jax.config.evaluate import EvaluatorConfig
from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.data.batch import Batch
from llama_jax.data.held_out import held_out_batches
from llama_jax.losses.cross_entropy import chunked_token_loss
from llama_jax.model import llama
from llama_jax.sharding.layout import Layout
from llama_jax.telemetry.metrics import perplexity
from llama_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Mean loss of the tokens at positions [start, stop) of all rows; nan without tokens."""

    start: int
    stop: int
    loss: float
    tokens: float  # Sum of weights.

    @property
    def perplexity(self) -> float:
        """Returns exp(loss)."""
        return perplexity(self.loss)


@dataclasses.dataclass(frozen=True)
class Result:
    """Mean loss over all tokens, and over those of each bucket."""

    loss: float
    tokens: float
    buckets: tuple[Bucket, ...]

    @property
    def perplexity(self) -> float:
        """Returns exp(loss)."""
        return perplexity(self.loss)

    def metrics(self, name: str) -> dict[str, float]:
        """Returns the values under the names that writers use: eval/<name>/perplexity_at_512."""
        named = {f"eval/{name}/loss": self.loss, f"eval/{name}/perplexity": self.perplexity}
        for bucket in self.buckets:
            named[f"eval/{name}/perplexity_at_{bucket.start}"] = bucket.perplexity
        return named


class Evaluator:
    """One set of fixed rows; `run` may be called as often as there are parameters to measure.

    Args:
        name: For people and metrics.
        config: Length and number of the rows, buckets.
        graph: The model without its parameters.
        batches: Called at each run for the same batches again.
        layout: Of the batches; it splits no sequence.
    """

    def __init__(
        self,
        name: str,
        config: EvaluatorConfig,
        graph: nnx.GraphDef,
        batches: Callable[[], Iterable[Batch]],
        layout: Layout,
    ):
        self.name, self.config = name, config
        self._batches = batches
        whole = layout.sharding()
        shape = (2, config.sequence_length)
        self._zeros = jax.jit(partial(jnp.zeros, shape, jnp.float32), out_shardings=whole)
        self._add = jax.jit(partial(_add, graph, config.loss_chunk), out_shardings=whole)

    @property
    def count(self) -> int | None:
        """Batches in a run; None if all rows of the source are read, however many they are."""
        rows = self.config.rows
        return None if rows == -1 else math.ceil(rows / self.config.batch_size)

    def run(self, params: llama.Params, show: Callable[[int], object] | None = None) -> Result:
        """Returns what a model with these parameters makes of the rows.

        Args:
            params: As `llama.split` names them, over the mesh of the batches.
            show: Told the number of finished batches, for a progress bar.
        """
        show = show or (lambda done: None)
        count, sums_2T = 0, self._zeros()
        for count, batch in enumerate(self._batches(), 1):
            next_2T = self._add(params, batch, sums_2T)
            # Waiting for the batch before bounds how far Python runs ahead: two batches in memory.
            jax.block_until_ready(sums_2T)
            show(count - 1)
            sums_2T = next_2T
        loss_T, weight_T = jax.device_get(sums_2T)
        show(count)
        return summarise(loss_T, weight_T, self.config.buckets)


def make_evaluators(
    configs: Mapping[str, EvaluatorConfig],
    model: ModelConfig,
    compute: ComputeConfig,
    text: TextConfig,
    tokenizer: Tokenizer,
    cache: Path,
    layout: Layout,
    lora: LoraConfig = llama.NO_LORA,
) -> list[Evaluator]:
    """Returns an evaluator per config; raw sources are tokenised into `cache`.

    Raises:
        ValueError: A source is missing or too short, or a batch does not divide over the devices.
        DataError: A source is damaged.
    """
    graph, _ = llama.abstract(model, compute, layout, lora)
    evaluators = []
    for name, config in configs.items():
        _check_batch(name, config.batch_size, layout)
        batches = partial(
            held_out_batches,
            config.source,
            text,
            tokenizer,
            sequence_length=config.sequence_length,
            rows=config.rows,
            batch_size=config.batch_size,
            cache=cache,
            layout=layout,
        )
        batches()  # Opens the source: a mistake shows now and not after an hour of training.
        evaluators.append(Evaluator(name, config, graph, batches, layout))
    return evaluators


def summarise(loss_T: np.ndarray, weight_T: np.ndarray, buckets: int) -> Result:
    """Returns the token-weighted means of sums per position, in all and in equal parts."""
    size = len(loss_T) // buckets
    loss_T, weight_T = loss_T.astype(np.float64), weight_T.astype(np.float64)
    parts = [slice(start, start + size) for start in range(0, len(loss_T), size)]
    return Result(
        _mean(loss_T, weight_T),
        float(weight_T.sum()),
        tuple(
            Bucket(p.start, p.stop, _mean(loss_T[p], weight_T[p]), float(weight_T[p].sum()))
            for p in parts
        ),
    )


def _add(graph: nnx.GraphDef, chunk: int, params: llama.Params, batch: Batch, sums_2T: jax.Array):
    """Returns the sums over rows of (weight * loss, weight) per position, added to `sums_2T`."""
    model = llama.merge(graph, params)
    mask = model.row_mask(batch.segment_BT)
    x_BTD, _ = model.hidden(batch.token_BT, batch.position_BT, mask)
    loss_BT = chunked_token_loss(x_BTD, model.head_DV, batch.target_BT, chunk=chunk)
    # Not only a product: at padding the loss may be anything, and 0 * inf is nan.
    loss_BT = jnp.where(batch.weight_BT > 0, batch.weight_BT * loss_BT, 0.0)
    return sums_2T + jnp.stack([loss_BT.sum(axis=0), batch.weight_BT.sum(axis=0)])


def _mean(loss: np.ndarray, weight: np.ndarray) -> float:
    total = weight.sum()
    return float(loss.sum() / total) if total else math.nan


def _check_batch(name: str, rows: int, layout: Layout) -> None:
    ways = layout.ways("batch")
    if rows % ways:
        raise ValueError(
            f"evaluators.{name}.batch_size is {rows}; it must be a multiple of {ways}, the "
            "devices that share a batch."
        )
