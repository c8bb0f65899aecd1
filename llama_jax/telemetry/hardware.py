"""What a device can do at most, and how much memory is in use."""

import dataclasses
import resource
import sys
from collections.abc import Sequence

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them."""

    peak_flops: float  # Dense bfloat16 operations per second, without sparsity.
    memory_gib: float  # Nominal high-bandwidth memory.
    link_bytes: float  # Bytes per second, one way, from one neighbour over the fast links.


# NVIDIA: data sheets of H100, H200 and A100 ("without sparsity"); names as nvidia-smi prints them.
# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; names as in jax's own table,
# jax/_src/pallas/mosaic/tpu_info.py. A v4 or v5p device is a whole chip (two cores as one), a TPU7x
# device is one core: half of the chip's 2307e12 and 192 GiB. Links: half of NVLink's or PCIe's
# two-way bandwidth in the same data sheets; one ICI link, scaling-book/hardware.
_V5E = Chip(197e12, 16, 45e9)
_V5P = Chip(459e12, 95, 90e9)
_V6E = Chip(918e12, 32, 90e9)
CHIPS = {
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80, 450e9),
    "NVIDIA H100 PCIe": Chip(756e12, 80, 64e9),
    "NVIDIA H100 NVL": Chip(835e12, 94, 300e9),
    "NVIDIA H200": Chip(989e12, 141, 450e9),
    "NVIDIA H200 NVL": Chip(835e12, 141, 450e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40, 300e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80, 300e9),
    "NVIDIA A100-PCIE-40GB": Chip(312e12, 40, 32e9),
    "NVIDIA A100 80GB PCIe": Chip(312e12, 80, 32e9),
    "TPU v4": Chip(275e12, 32, 45e9),
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": Chip(1153.5e12, 96, 90e9),
}


def chip(device_kind: str) -> Chip | None:
    """Returns the device's limits, or None where no source states them (a CPU, an unknown GPU)."""
    return CHIPS.get(device_kind)


def memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Returns metrics in GiB: device memory in use and at most, of the fullest device, and host.

    Devices that do not report (CPU) leave their two names out.
    """
    reports = [report for report in (device.memory_stats() for device in devices) if report]
    values = {}
    if reports:
        in_use = max(report["bytes_in_use"] for report in reports)
        peak = max(report["peak_bytes_in_use"] for report in reports)
        values["memory/hbm_in_use_gib"] = in_use / GIB
        values["memory/hbm_peak_gib"] = peak / GIB
    values["memory/host_peak_gib"] = host_peak_bytes() / GIB
    return values


def host_peak_bytes() -> int:
    """Returns the largest resident memory this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB.
