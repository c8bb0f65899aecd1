"""Shares are exact at every prefix, and no row is skipped or read twice."""

import ast
import collections
import re
from fractions import Fraction

import pytest

from llama_jax.data import mixture

CASES = {
    "drawn": {"books": 1, "code": 3, "web": 4},
    "one": {"only": 0.3},
    "decimal": {"a": 0.1, "b": 0.2, "c": 0.7},
    "thirds": {"a": 1, "b": 1, "c": 1},
    "uneven": {"a": 1e-3, "b": 1.0, "c": 17.25, "d": 0.5, "e": 3},
}


def test_the_drawing():
    drawn = {}
    for line in re.findall(r"^    (books|code|web)( .*)$", mixture.__doc__, re.M):
        offset = 4 + len(line[0])
        for match in re.finditer(r"\d+", line[1]):
            drawn[(offset + match.start() - 12) // 3] = (line[0], ast.literal_eval(match[0]))
    chosen = mixture.interleave(CASES["drawn"])
    assert {item: chosen.locate(item) for item in range(8)} == drawn


@pytest.mark.parametrize("weights", CASES.values(), ids=CASES)
def test_every_prefix_has_its_share_and_every_source_is_read_in_order(weights):
    chosen = mixture.interleave(weights)
    total = sum(Fraction(str(weight)) for weight in weights.values())
    counts = collections.Counter()
    for item in range(3000):
        name, index = chosen.locate(item)
        assert index == counts[name]
        counts[name] += 1
        for source, weight in weights.items():
            share = (item + 1) * Fraction(str(weight)) / total
            assert abs(counts[source] - share) < len(weights)


def test_shares_are_exact_where_the_fractions_divide():
    chosen = mixture.interleave(CASES["decimal"])
    assert chosen.shares == (Fraction(1, 10), Fraction(2, 9), 1)
    counts = collections.Counter(chosen.locate(item)[0] for item in range(10_000))
    assert counts == {"a": 1000, "b": 2000, "c": 7000}


def test_far_items_need_no_history():
    chosen = mixture.interleave(CASES["uneven"])
    far = 10**15
    found = collections.Counter(chosen.locate(far + i) for i in range(1000))
    assert max(found.values()) == 1
    assert {name for name, _ in found} >= {"b", "c", "d", "e"}


def test_the_order_of_naming_does_not_matter():
    names = dict(reversed(CASES["uneven"].items()))
    assert mixture.interleave(names) == mixture.interleave(CASES["uneven"])
