"""How often is asked, and how long is waited."""

import asyncio
import contextlib
import time

import pytest

from llama_jax.config.distill import RetryConfig
from llama_jax.core.errors import RetryError
from llama_jax.distillation import patience
from llama_jax.distillation.answer import Answer, Unusable
from llama_jax.distillation.patience import Patience, Stopped

YES = Answer("yes")


def attempts(*outcomes):
    """Returns an attempt that has these outcomes one after the other, and when it was called."""
    left, times = list(outcomes), []

    async def attempt():
        times.append(time.monotonic())
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt, times


def run(config, *attempts, stop_after=None):
    async def together():
        stopping = asyncio.Event()
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stopping.set)
        patient = Patience(config, stopping)
        answers = [patient.answer(attempt) for attempt in attempts]
        return patient, await asyncio.gather(*answers)

    return asyncio.run(together())


def test_it_asks_until_an_answer_comes():
    attempt, times = attempts(Unusable("a"), Unusable("b"), YES)
    patient, answers = run(RetryConfig(wait=0.01), attempt)
    assert answers == [YES] and len(times) == 3 and patient.retries == 2


def test_it_asks_no_more_often_than_it_may():
    attempt, times = attempts(*[Unusable(str(i)) for i in range(9)])
    with pytest.raises(Unusable, match="3"):
        run(RetryConfig(attempts=4, wait=0.0), attempt)
    assert len(times) == 4


def test_pauses_double_up_to_the_longest_and_differ(monkeypatch):
    patient = Patience(RetryConfig(wait=1.0, longest_wait=6.0), asyncio.Event())
    monkeypatch.setattr(patience.random, "uniform", lambda low, high: high)
    assert [patient._pause(i) for i in (0, 1, 2, 3, 2000)] == [1, 2, 4, 6, 6]
    monkeypatch.undo()
    pauses = {patient._pause(2) for _ in range(20)}
    assert len(pauses) == 20 and min(pauses) >= 2 and max(pauses) <= 4


def test_what_the_host_asks_to_wait_holds_for_every_request():
    first, first_times = attempts(Unusable("busy", wait=0.3), YES)
    second, second_times = attempts(Unusable("broken"), YES)
    start = time.monotonic()
    run(RetryConfig(wait=0.01), first, second)
    assert first_times[1] - start >= 0.29 and second_times[1] - start >= 0.29


def test_a_wait_that_is_too_long_ends_the_run():
    attempt, _ = attempts(Unusable("quota", wait=3600.0))
    with pytest.raises(RetryError, match=r"to wait 3600 s \(quota\), longer .*longest_wait=120"):
        run(RetryConfig(), attempt)


def test_too_many_failures_in_a_row_end_the_run_and_an_answer_begins_anew():
    config = RetryConfig(attempts=2, wait=0.0, in_a_row=3)

    async def one_by_one(*attempts):
        patient = Patience(config, asyncio.Event())
        for attempt in attempts:
            with contextlib.suppress(Unusable):
                await patient.answer(attempt)

    bad = [attempts(Unusable("a"), Unusable("b"))[0] for _ in range(4)]
    asyncio.run(one_by_one(bad[0], attempts(YES)[0], bad[3]))
    with pytest.raises(RetryError, match="3 attempts in a row brought no answer, the last: a"):
        asyncio.run(one_by_one(bad[1], bad[2]))


def test_asked_to_stop_it_waits_no_longer():
    attempt, times = attempts(Unusable("busy", wait=60.0), YES)
    start = time.monotonic()
    with pytest.raises(Stopped):
        run(RetryConfig(), attempt, stop_after=0.1)
    assert time.monotonic() - start < 2 and len(times) == 1
