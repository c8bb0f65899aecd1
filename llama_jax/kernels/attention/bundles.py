"""What the TPU compiler scheduled: instruction bundles of a kernel's inner loops, from its dumps.

No TPU is needed. A bundle is what a core issues in one cycle if nothing stalls, so counts compare
kernels that do the same work on the same chip; they are no times. The flags and files of libtpu are
undocumented (seen in 0.0.42 and 0.0.48), so whatever is missing is an empty answer.
"""

import dataclasses
import pathlib
import re

FLAGS = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"  # For LIBTPU_INIT_ARGS.
_USE = "final_hlo-static-per-bundle-utilization.txt"
_BUNDLES = "-final_bundles.txt"


@dataclasses.dataclass(frozen=True)
class Region:
    """A stretch of code that runs as a whole, e.g. one branch of a kernel."""

    bundles: int
    matrix_unit: float  # Share of its slots that are used, 0 to 1.


def hot_regions(folder: pathlib.Path, kernel: str) -> list[Region]:
    """Returns the innermost regions that hold a kernel's matrix products, fewest bundles first.

    Args:
        folder: Where libtpu dumped to, with FLAGS.
        kernel: What the kernel's name contains.
    """
    for uses in sorted(folder.glob(f"*{kernel}*{_USE}")):
        stem = re.sub(r"-\d+-" + re.escape(_USE) + "$", "", uses.name)
        for bundles in folder.glob(f"{stem}-*{_BUNDLES}"):
            if "schedule-analysis" not in bundles.name:
                return _hot(_regions(bundles.read_text(errors="replace")), _products(uses))
    return []


def _hot(regions: list[tuple[int, int]], products: list[float]) -> list[Region]:
    total = sum(products)

    def share(region: tuple[int, int]) -> float:
        return sum(products[region[0] : region[1] + 1])

    large = [region for region in set(regions) if share(region) > 0.1 * total]
    inner = [
        region
        for region in large
        if not any(
            other != region
            and region[0] <= other[0]
            and other[1] <= region[1]
            and share(other) > 0.6 * share(region)
            for other in large
        )
        # A region around two branches of the same size is none of them.
        and sum(region[0] <= o[0] and o[1] <= region[1] for o in large if o != region) < 2
    ]
    found = [(end - start + 1, share((start, end))) for start, end in inner]
    return [Region(size, used / size) for size, used in sorted(found)]


def _products(file: pathlib.Path) -> list[float]:
    """Returns the share of the matrix unit's slots that each bundle uses."""
    _, names, capacity, _, *rows = file.read_text().splitlines()
    at = [name.strip() for name in names.split(",")].index("MXU")
    slots = int(capacity.split()[at])
    return [int(row.split()[at]) / slots for row in rows if row.strip()]


def _regions(text: str) -> list[tuple[int, int]]:
    """Returns (first, last) bundle of every region."""
    found, starts, bundle = [], {}, -1
    for line in text.splitlines():
        if number := re.match(r"\s*(0x[0-9a-f]+|\d+)\s+(?:[A-Z]{2})?\s*:", line):
            bundle = int(number[1], 0)
        for event, region in re.findall(r"(Start|End) region (\d+)", line):
            if event == "Start":
                starts[region] = bundle
            elif region in starts:
                found.append((starts[region], bundle))
    return found
