"""What a device can do at most, and how much memory is in use."""

import dataclasses
import math
import resource
import sys
from collections.abc import Sequence

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Links:
    """How devices reach each other: within a slice or node, and across them. Bytes per second."""

    near: str  # "ICI", "NVLink" or "PCIe"
    # One way: of one ICI port (a ring uses two along each dimension), or of all NVLinks together.
    near_bandwidth: float
    far: str | None = None  # "DCN" or "IB"; None where no source states it.
    far_bandwidth: float = math.nan  # One way, of one device.


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them. What only planning needs is None for chips nobody plans."""

    peak_flops: float  # Dense bfloat16 operations per second, without sparsity.
    memory_gib: float  # Nominal high-bandwidth memory.
    links: Links
    memory_bandwidth: float | None = None  # Bytes per second.
    # What a compiled program may fill: what libtpu's out-of-memory message calls available; on a
    # GPU 0.9 (XLA_PYTHON_CLIENT_MEM_FRACTION in launch/env) of what its driver reports.
    usable_gib: float | None = None


# NVIDIA: data sheets of H100, H200 and A100 ("without sparsity"); names as nvidia-smi prints them.
# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; names as in jax's own table,
# jax/_src/pallas/mosaic/tpu_info.py. A v4 or v5p device is a whole chip (two cores as one), a TPU7x
# device is one core: half of the chip's 2307e12 and 192 GiB.
#
# Links. TPU, same pages: ICI both ways per chip 400, 1200, 800 GB/s over 4, 6, 4 ports; network
# 2 x 100 Gbit/s for 8 chips (v5e), 50 Gbit/s per chip (v5p), 4 x 200 Gbit/s for 8 chips (v6e); v4
# and TPU7x, one port: jax-ml.github.io/scaling-book/tpus. NVIDIA: half of the two-way bandwidth of
# NVLink or PCIe in the same data sheets; DGX H100 data sheet, one 400 Gbit/s port for each GPU.
# Memory bandwidth: the same pages and data sheets.
_V5E = Chip(197e12, 16, Links("ICI", 50e9, "DCN", 3.125e9), 819e9, 15.75)
_V5P = Chip(459e12, 95, Links("ICI", 100e9, "DCN", 6.25e9), 2765e9, 95.74)
_V6E = Chip(918e12, 32, Links("ICI", 100e9, "DCN", 12.5e9), 1638e9, 31.25)
_DGX = Links("NVLink", 450e9, "IB", 50e9)
CHIPS = {
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80, _DGX, 3352e9, 0.9 * 84942979072 / GIB),
    "NVIDIA H100 PCIe": Chip(756e12, 80, Links("PCIe", 64e9)),
    "NVIDIA H100 NVL": Chip(835e12, 94, Links("NVLink", 300e9)),
    "NVIDIA H200": Chip(989e12, 141, _DGX, 4800e9, 0.9 * 151397597184 / GIB),
    "NVIDIA H200 NVL": Chip(835e12, 141, Links("NVLink", 450e9)),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40, Links("NVLink", 300e9)),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80, Links("NVLink", 300e9)),
    "NVIDIA A100-PCIE-40GB": Chip(312e12, 40, Links("PCIe", 32e9)),
    "NVIDIA A100 80GB PCIe": Chip(312e12, 80, Links("PCIe", 32e9)),
    "TPU v4": Chip(275e12, 32, Links("ICI", 45e9)),
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": Chip(1153.5e12, 96, Links("ICI", 90e9)),
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
