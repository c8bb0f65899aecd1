"""The table says the same as the numbers, in 80 columns."""

import io
import math

import pytest
from rich.console import Console

from llama_jax.evaluation.perplexity import Bucket, Result
from llama_jax.evaluation.table import brief, table


def result(perplexities, length=2048):
    size = length // len(perplexities)
    buckets = tuple(
        Bucket(i * size, (i + 1) * size, math.log(value), float(i + 1))
        for i, value in enumerate(perplexities)
    )
    tokens = sum(b.tokens for b in buckets)
    return Result(sum(b.loss * b.tokens for b in buckets) / tokens, tokens, buckets)


def shown(results, title="held_out", width=80):
    out = io.StringIO()
    Console(file=out, width=width).print(table(title, results))
    return out.getvalue()


def test_a_title_is_not_folded_to_a_narrow_table():
    title = "answers: 2,534 tokens in rows of 256, and more words than the table is wide"
    assert shown({"a": result([2.0])}, title).splitlines()[0] == title


def test_every_bucket_of_every_subject_is_there():
    text = shown({"before": result([80.0, 160.0]), "after": result([70.5, 44.4])})
    assert text.split() == [
        "held_out",
        "perplexity", "at", "all", "0", "1024",
        *[word for word in text.split() if set(word) == {"─"}],
        "before", "127", "80.0", "160",
        "after", "51.8", "70.5", "44.4",
    ]  # fmt: skip


def test_the_largest_table_fits_80_columns():
    results = {
        "a name that is much longer than it should be, and then some": result([1e300] * 8, 2**20),
        "[bold]not markup[/bold]": result([123456.0] * 8, 2**20),
    }
    text = shown(results)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("1e+300") == 9 and text.count("123k") == 9  # Nothing is cut off.
    assert "[bold]" in text


def test_joined_buckets_keep_their_mean():
    text = shown({"a": result([10.0, 20.0, 30.0, 40.0] * 4)})
    first = math.exp((1 * math.log(10) + 2 * math.log(20)) / 3)
    assert f"{first:.3g}" in text.split()
    assert text.split()[1:12] == ["perplexity", "at", "all", *map(str, range(0, 2048, 256))]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.306, "7.31"), (63.0, "63.0"), (118.2, "118"), (999.6, "1e+03"), (12345.0, "12.3k"),
        (4e12, "4e+12"), (math.inf, "inf"), (math.nan, "-"), (1.0, "1.00"),
    ],
)  # fmt: skip
def test_a_perplexity_takes_six_characters(value, text):
    assert brief(value) == text.replace("1e+03", "1k")
    assert len(brief(value)) <= 6
