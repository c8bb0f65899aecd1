"""Subjects x positions as a table that fits a terminal of 80 columns."""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from llama_jax.evaluation.perplexity import Bucket, Result
from llama_jax.telemetry.console import short

COLUMNS = 8  # Position columns; more buckets are joined.


def table(title: str, results: Mapping[str, Result]) -> Group:
    """Returns perplexities below a title, one row per subject; a column's head is its position."""
    rows = {name: _join(result.buckets) for name, result in results.items()}
    # 13 + 9 x (1 + 6) columns at the widest: where it does not fit, rich leaves columns out.
    built = Table(box=box.SIMPLE_HEAD, padding=0)
    built.add_column("perplexity at", min_width=13, overflow="fold")
    built.add_column("all", justify="right", no_wrap=True, min_width=5, style="bold")
    for bucket in next(iter(rows.values())):
        built.add_column(_position(bucket.start), justify="right", no_wrap=True, min_width=5)
    for name, buckets in rows.items():
        values = [results[name].perplexity, *(bucket.perplexity for bucket in buckets)]
        # Text: a name may hold what rich would read as markup.
        built.add_row(Text(name), *(brief(value) for value in values))
    # Not the table's own title, which is folded to the width of a narrow table.
    return Group(Text(title, style="italic"), built)


def brief(value: float) -> str:
    """Returns a perplexity in at most six characters: 7.31, 63.2, 118, 12.3k, 4e+12."""
    if math.isnan(value):
        return "-"
    if value < 999.5:
        return f"{value:#.3g}".rstrip(".")
    return short(value) if value < 999.5e9 else f"{value:.0e}"


def _position(position: int) -> str:
    return str(position) if position < 100_000 else short(position)


def _join(buckets: Sequence[Bucket]) -> list[Bucket]:
    """Returns at most COLUMNS buckets that cover the same tokens."""
    size = math.ceil(len(buckets) / COLUMNS)
    groups = [buckets[i : i + size] for i in range(0, len(buckets), size)]
    return [_merged(group) for group in groups]


def _merged(group: Sequence[Bucket]) -> Bucket:
    if len(group) == 1:
        return group[0]
    tokens = math.fsum(bucket.tokens for bucket in group)
    loss = math.fsum(bucket.loss * bucket.tokens for bucket in group if bucket.tokens)
    mean = loss / tokens if tokens else math.nan
    return Bucket(group[0].start, group[-1].stop, mean, tokens)
