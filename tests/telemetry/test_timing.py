import math

import pytest

from llama_jax.telemetry.timing import Timing


class Clock:
    """Time that moves when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timing(clock):
    return Timing(clock, started=1000.0)


def spend(clock, timing, **phases):
    for name, seconds in phases.items():
        with timing.phase(name):
            clock.now += seconds


def test_goodput_is_the_share_of_wall_time_in_steps(clock, timing):
    clock.now += 10  # Imports and set-up.
    spend(clock, timing, compile=20, data=5, step=50, evaluation=10, checkpoint=5)
    assert timing.goodput() == pytest.approx(50 / 100)


def test_a_phase_that_fails_is_counted_too(clock, timing):
    with pytest.raises(KeyError), timing.phase("step"):
        clock.now += 3
        raise KeyError
    assert timing.goodput() == 1.0


def test_step_time_covers_the_loop_and_not_what_interrupts_it(clock, timing):
    for _ in range(4):
        spend(clock, timing, data=1, step=2)
        timing.finish_step()
    spend(clock, timing, checkpoint=100)
    seconds, values = timing.lap()
    assert seconds == 12
    assert values["throughput/step_time_s"] == 3
    assert values["data/wait_time_s"] == 1


def test_a_lap_covers_only_the_steps_since_the_last(clock, timing):
    spend(clock, timing, step=100)
    timing.finish_step()
    timing.lap()
    spend(clock, timing, step=7)
    timing.finish_step()
    seconds, values = timing.lap()
    assert seconds == values["throughput/step_time_s"] == 7


def test_a_lap_without_steps_has_no_step_time(timing, clock):
    clock.now += 1
    assert timing.lap() == (0, {"goodput/fraction": 0.0})


def test_the_estimate_includes_what_interrupts_steps_but_not_the_compilation(clock, timing):
    spend(clock, timing, compile=500, step=2)
    assert math.isnan(timing.remaining(10))
    timing.finish_step()
    assert math.isnan(timing.remaining(10))
    spend(clock, timing, step=2, evaluation=6)
    timing.finish_step()
    assert timing.remaining(10) == pytest.approx(80)


def test_the_process_started_before_this_test():
    timing = Timing()
    with timing.phase("step"):
        pass
    assert 0 <= timing.goodput() < 1e-3
