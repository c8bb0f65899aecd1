"""What a compiled program sends between devices: kind, mesh axes, link, bytes.

With an operand of b bytes on each of g devices, every device receives

    all-gather            (g - 1) b
    reduce-scatter        (g - 1) / g b
    all-reduce            2 (g - 1) / g b       a reduce-scatter and an all-gather
    all-to-all            (g - 1) / g b
    collective-permute    b

which is what a ring, the best that links of equal speed can do, moves: derivation in
https://jax-ml.github.io/scaling-book/sharding. Each is counted as often as the loops around it run;
an asynchronous pair (-start and -done) counts once.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llama_jax.planning.hlo import Computation, Instruction, Module
from llama_jax.planning.topology import Topology
from llama_jax.telemetry.hardware import Chip

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# Between slices libtpu hands an array to its network runtime: a send that names what it stands for.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SENT_AS = {"ONE_TO_ONE": "collective-permute"}  # The others are called as here.
Group = tuple[int, ...]  # Indices into the mesh's devices, flattened.


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction, or several that are alike, of a program."""

    kind: str
    axes: tuple[str, ...]  # Mesh axes along which a group reaches.
    link: str  # The slowest kind that a group crosses: "ICI", "DCN", "NVLink", "IB" or "memory".
    group: int  # Devices in one group.
    times: int  # How often it runs in one step.
    bytes: int  # Received by each device in one step.
    bandwidth: float | None  # At which a device of the group receives; None if nobody states it.
    largest: str  # Where the one that moves most comes from: the end of its path in the program.
    largest_bytes: int

    @property
    def seconds(self) -> float | None:
        """Returns bytes / bandwidth."""
        return None if self.bandwidth is None else self.bytes / self.bandwidth


def find(module: Module, mesh: Mesh, topology: Topology, chip: Chip | None) -> list[Collective]:
    """Returns the program's collectives, those of one kind, axes and size of group together."""
    links = Links(mesh, topology, chip)
    merged: dict[tuple, Collective] = {}
    continuing = _continuing(module)
    for name, times in module.runs.items():
        if name in continuing:
            continue
        for new in _of_computation(module.computations[name], times, links):
            key = (new.kind, new.axes, new.group, new.link, new.bandwidth)
            merged[key] = _sum(merged[key], new) if key in merged else new
    return sorted(merged.values(), key=lambda found: -found.bytes)


def _continuing(module: Module) -> set[str]:
    """Returns the computations in which a collective stands that another has started.

    XLA for TPUs writes a transfer that goes on beside computation as a fusion that starts it,
    fusions of computation that carry it on, and one that ends it; in each it stands whole.
    """
    return {
        called
        for instructions in module.computations.values()
        for i in instructions.values()
        for called in i.called("calls")
        if i.name.startswith("async-collective-done")
        or called.startswith("async_collective_fusion")
    }


def _of_computation(instructions: Computation, times: int, links: "Links") -> Iterator[Collective]:
    found = []
    for instruction in instructions.values():
        if kind := _kind(instruction, instructions):
            is_between = instruction.opcode == "send"
            groups = links.slices() if is_between else _groups(instruction, links.mesh.size)
            found.append((kind, instruction, groups))
    rings = {frozenset(groups) for kind, _, groups in found if kind == "collective-permute"}
    for kind, instruction, groups in found:
        if len(groups[0]) == 1:
            continue
        size = sum(instructions[name].bytes for name in instruction.operands)
        moved = times * round(received(kind, size, len(groups[0])))
        link, bandwidth = links.of(groups)
        if bandwidth and frozenset(pair[::-1] for pair in groups) in rings:
            bandwidth *= 2  # One ring each way at the same time: the other half is counted too.
        yield Collective(
            kind=kind,
            axes=links.axes(groups),
            link=link,
            group=len(groups[0]),
            times=times,
            bytes=moved,
            bandwidth=bandwidth,
            largest=_origin(instruction, instructions),
            largest_bytes=moved,
        )


def received(kind: str, size: int, group: int) -> float:
    """Returns the bytes that each of `group` devices receives for operands of `size` bytes."""
    share = (group - 1) / group
    factor = {
        "all-gather": group - 1,
        "reduce-scatter": share,
        "all-reduce": 2 * share,
        "all-to-all": share,
        "collective-permute": 1,
    }
    return factor[kind] * size


class Links:
    """Which links the devices of a mesh talk over."""

    def __init__(self, mesh: Mesh, topology: Topology, chip: Chip | None):
        self.mesh, self.topology = mesh, topology
        self.links = chip.links if chip else None
        self.devices: list[Any] = list(mesh.devices.flat)

    def axes(self, groups: Sequence[Group]) -> tuple[str, ...]:
        """Returns the mesh axes along which the devices of a group differ."""
        places = [np.unravel_index(np.array(group), self.mesh.devices.shape) for group in groups]
        return tuple(
            axis
            for dim, axis in enumerate(self.mesh.axis_names)
            if any(len(set(place[dim].tolist())) > 1 for place in places)
        )

    def of(self, groups: Sequence[Group]) -> tuple[str, float | None]:
        """Returns the slowest link that the groups cross and its bandwidth for one device."""
        if self.links is None:
            return "memory", None
        slowest = min((self._bandwidth(group), self._link(group)) for group in groups)
        return slowest[1], slowest[0]

    def slices(self) -> list[Group]:
        """Returns the groups of devices that have the same place in different slices."""
        places: dict[tuple, list[int]] = collections.defaultdict(list)
        for index, device in enumerate(self.devices):
            places[tuple(device.coords)].append(index)
        return [tuple(group) for group in places.values()]

    def _link(self, group: Group) -> str:
        assert self.links is not None and self.links.far is not None
        return self.links.far if len(set(map(self._island, group))) > 1 else self.links.near

    def _bandwidth(self, group: Group) -> float:
        """Returns the bytes per second that each device of the group can receive.

        Across islands (nodes, slices) each device brings its own far link, and what arrives is
        passed on inside: so many devices of an island, so many far links work for the group.
        """
        assert self.links is not None
        near = self.links.near_bandwidth
        if self.topology.platform == "tpu":
            near *= self._ports(group)
        sizes = collections.Counter(map(self._island, group))
        if len(sizes) == 1:
            return near
        far = min(sizes.values()) * self.links.far_bandwidth
        return min(near, far) if min(sizes.values()) > 1 else far

    def _island(self, index: int) -> int:
        """Returns the slice of a TPU, the node of a GPU."""
        device = self.devices[index]
        if self.topology.platform == "tpu":
            return device.slice_index if self.topology.slices > 1 else 0
        return device.process_index

    def _ports(self, group: Group) -> int:
        """Returns through how many ICI ports a device of the group receives: rings have two."""
        coordinates = np.array([self.devices[index].coords for index in group])
        ports = 0
        for dim in range(len(self.topology.shape)):
            length = len(set(coordinates[:, dim].tolist()))
            is_ring = length == self.topology.shape[dim] and self.topology.closed(dim)
            ports += 0 if length == 1 else 2 if is_ring else 1
        return max(ports, 1)


def _sum(a: Collective, b: Collective) -> Collective:
    larger = max(a, b, key=lambda one: one.largest_bytes)
    return dataclasses.replace(larger, times=a.times + b.times, bytes=a.bytes + b.bytes)


def _origin(instruction: Instruction, around: Computation) -> str:
    """Returns the operand's type and the last word of the path, such as 'f32[4,8] BTI,IO->BTO'."""
    operand = around[instruction.operands[0]]
    words = [word for word in instruction.op_name.split("/") if word != "dot_general"]
    name = re.sub(r"[^\w,>-]", "", words[-1]) if words else ""
    return f"{operand.shape.partition('{')[0]} {name}".strip()


def _kind(instruction: Instruction, around: Computation) -> str | None:
    """Returns the kind of a collective; None for anything else, and for the -done of a pair."""
    kind = instruction.opcode.removesuffix("-start")
    if kind == "send" and (sent := _BETWEEN_SLICES.search(instruction.attributes)):
        return _SENT_AS.get(sent[1], sent[1].lower().replace("_", "-"))
    if kind not in KINDS:
        return None
    root = next(other for other in around.values() if other.is_root)
    if kind == "all-reduce" and root.opcode == "dynamic-slice":
        # A fusion of both: how XLA for TPUs writes a reduce-scatter.
        return "reduce-scatter"
    return kind


def _groups(instruction: Instruction, devices: int) -> list[Group]:
    """Returns the groups of devices that talk to each other, the largest first."""
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        found = [tuple(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)", pairs[0])]
        return [pair for pair in found if pair[0] != pair[1]] or [(0,)]
    start = text.index("replica_groups=") + len("replica_groups=")
    groups = parse_groups(text[start:], devices)
    return sorted(groups, key=len, reverse=True)


def parse_groups(text: str, devices: int) -> list[Group]:
    """Returns the groups written at the start of `text` in one of XLA's three forms.

    {{0,1},{2,3}}    [2,2]<=[2,2]T(1,0)    mesh['a'=2,'b'=2] {'a'}    ({} is everyone)
    """
    if text.startswith("mesh["):
        return _mesh_groups(text)
    if found := re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        count, size = int(found[1]), int(found[2])
        ids = _iota(found[3], found[4]).reshape(count, size)
        return [tuple(row) for row in ids.tolist()]
    listed = re.match(r"\{(\{[\d,]*\},?)*\}", text)
    assert listed, f"unknown groups: {text[:80]}"
    groups = [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[0])]
    return groups or [tuple(range(devices))]


def _mesh_groups(text: str) -> list[Group]:
    """Returns the groups of mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a':(2)2,'b'}.

    'a':(2)2 is the part of an axis that has 2 devices, after parts of 2 devices in all before it.
    """
    ids = r"(?:, device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\))?"
    found = re.match(rf"mesh\[([^\]]*)\]{ids} \{{([^}}]*)\}}", text)
    assert found, f"unknown groups: {text[:80]}"
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", found[1])}
    shape: list[int] = []
    chosen: list[int] = []
    used = re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?", found[5])
    for axis, size in sizes.items():
        parts = sorted((int(pre), int(part)) for name, pre, part in used if name == axis and pre)
        whole = any(name == axis and not pre for name, pre, _ in used)
        pieces = _pieces(size, parts)
        for length, is_chosen in [(size, True)] if whole else pieces:
            chosen += [len(shape)] if is_chosen else []
            shape.append(length)
    order = np.arange(math.prod(shape))
    if found[2]:
        order = _iota(found[2], found[3])
    elif found[4]:
        order = np.array([int(n) for n in found[4].split(",")])
    others = [dim for dim in range(len(shape)) if dim not in chosen]
    width = math.prod(shape[dim] for dim in chosen)
    rows = order.reshape(shape).transpose([*others, *chosen]).reshape(-1, width)
    return [tuple(row) for row in rows.tolist()]


def _pieces(size: int, parts: list[tuple[int, int]]) -> list[tuple[int, bool]]:
    """Returns an axis cut at its parts: lengths from the slowest index on, True where chosen."""
    pieces, done = [], 1
    for pre, part in parts:
        if pre > done:
            pieces.append((pre // done, False))
        pieces.append((part, True))
        done = pre * part
    if done < size:
        pieces.append((size // done, False))
    return pieces or [(1, False)]


def _iota(dims: str, permutation: str | None) -> np.ndarray:
    shape = [int(n) for n in dims.split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    if permutation:
        ids = ids.transpose([int(n) for n in permutation.split(",")])
    return ids.reshape(-1)
