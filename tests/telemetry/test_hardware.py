import pathlib
import re
import types

import jax
import pytest

from llama_jax.telemetry import hardware


def device(in_use, peak):
    report = {"bytes_in_use": in_use, "peak_bytes_in_use": peak}
    return types.SimpleNamespace(memory_stats=lambda: report)


def test_a_cpu_has_no_published_peak():
    assert hardware.chip(jax.devices()[0].device_kind) is None


def test_every_name_of_a_tpu_is_the_same_chip():
    for short, long in [
        ("TPU v5e", "TPU v5 lite"),
        ("TPU v5p", "TPU v5"),
        ("TPU v6e", "TPU v6 lite"),
    ]:
        assert hardware.chip(short) == hardware.chip(long)
    assert hardware.chip("NVIDIA H100 80GB HBM3").peak_flops == 989e12


def test_the_fullest_device_is_reported():
    values = hardware.memory([device(1 * 2**30, 8 * 2**30), device(3 * 2**30, 5 * 2**30)])
    assert values["memory/hbm_in_use_gib"] == 3
    assert values["memory/hbm_peak_gib"] == 8


def test_a_cpu_reports_the_host_alone():
    assert set(hardware.memory(jax.local_devices())) == {"memory/host_peak_gib"}


def test_host_memory_is_the_high_water_mark_of_this_process():
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux's /proc")
    before = hardware.host_peak_bytes()
    (mark,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    # The kernel sums per-thread counters lazily; the two differ by up to a few hundred KiB.
    assert abs(before - int(mark) * 1024) < 2**23
