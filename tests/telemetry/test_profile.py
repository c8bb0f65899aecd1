import jax
import jax.numpy as jnp
import pytest

from llama_jax.config.train import ProfileConfig
from llama_jax.telemetry.profile import Profiler


@pytest.fixture
def calls(monkeypatch):
    """Records what would be traced instead of tracing it."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def run(profiler, steps, calls):
    for step in steps:
        profiler.before(step)
        calls.append(step)
        profiler.after(step, jnp.float32(0))


def test_exactly_the_chosen_steps_are_traced(calls, tmp_path):
    with Profiler(ProfileConfig(first=2, steps=3), tmp_path) as profiler:
        run(profiler, range(1, 8), calls)
    assert calls == [1, "start", 2, 3, 4, "stop", 5, 6, 7]


def test_nothing_is_traced_or_created_by_default(calls, tmp_path):
    with Profiler(ProfileConfig(), tmp_path / "profile") as profiler:
        run(profiler, range(8, 14), calls)
    assert calls == [8, 9, 10, 11, 12, 13]
    assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_inside_keeps_what_was_traced(calls, tmp_path):
    with pytest.raises(KeyError), Profiler(ProfileConfig(first=2, steps=9), tmp_path) as profiler:
        run(profiler, range(1, 4), calls)
        raise KeyError
    assert calls == [1, "start", 2, 3, "stop"]


def test_a_run_resumed_inside_traces_the_rest_and_one_resumed_after_nothing(calls, tmp_path):
    with Profiler(ProfileConfig(first=2, steps=3), tmp_path) as profiler:
        run(profiler, range(4, 6), calls)
    assert calls == ["start", 4, "stop", 5]
    calls.clear()
    with Profiler(ProfileConfig(first=2, steps=3), tmp_path) as profiler:
        run(profiler, range(5, 7), calls)
    assert calls == [5, 6]


def test_the_trace_names_its_steps_where_tensorboard_looks(tmp_path):
    add = jax.jit(lambda x: x + 1)
    with Profiler(ProfileConfig(first=3, steps=2), tmp_path) as profiler:
        for step in range(2, 6):
            profiler.before(step)
            profiler.after(step, add(jnp.float32(step)))
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"step_num" in trace.read_bytes()
    # Numbers of events are not read: jax 0.11.2 aborts the process in ProfileEvent.stats.
    profile = jax.profiler.ProfileData.from_file(str(trace))
    events = [
        event.name for plane in profile.planes for line in plane.lines for event in line.events
    ]
    assert events.count("train") == 2
