"""Volumes computed by hand: on text, and on programs that XLA really compiled."""

# ruff: noqa: E501  (a program has long lines)

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.planning import collectives, hlo, topology
from llama_jax.telemetry import hardware

# Four devices as data=2 x fsdp=2. A loop of 5 runs holds an asynchronous all-gather of 64 bytes.
TEXT = """\
HloModule m, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %arg = (s32[], f32[4,4]) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%arg), index=1
  %gather = (f32[4,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
  %gathered = f32[8,4]{1,0} all-gather-done(%gather)
  ROOT %next = (s32[], f32[4,4]) tuple(%x, %gathered)
}

%condition (arg.1: (s32[], f32[4,4])) -> pred[] {
  %arg.1 = (s32[], f32[4,4]) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%reduce_scatter (q: f32[8,4], j: s32[]) -> f32[4,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %whole = f32[8,4]{1,0} all-reduce(%q), replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add
  ROOT %part = f32[4,4]{1,0} dynamic-slice(%whole, %j, %j), dynamic_slice_sizes={4,4}
}

ENTRY %main (p: f32[4,4], q: f32[8,4], i: s32[]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %q = f32[8,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %start = (s32[], f32[4,4]) tuple(%i, %p)
  %loop = (s32[], f32[4,4]) while(%start), condition=%condition, body=%body
  %sum = f32[4,4]{1,0} all-reduce(%p), replica_groups={}, to_apply=%add
  %shift = f32[4,4]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %alone = f32[4,4]{1,0} all-reduce(%p), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  ROOT %out = f32[4,4]{1,0} fusion(%q, %i), kind=kCustom, calls=%reduce_scatter
}
"""


# One all-gather of 4 x 16 bytes that goes on while a loop of 5 runs computes.
ASYNC = """\
HloModule m, num_partitions=4

%starting (a: f32[4,4]) -> f32[16,4] {
  %a = f32[4,4]{1,0} parameter(0)
  ROOT %g = f32[16,4]{1,0} all-gather(%a), channel_id=1, replica_groups={}, dimensions={0}
}

%async_collective_fusion.7 (b: f32[4,4]) -> f32[16,4] {
  %b = f32[4,4]{1,0} parameter(0)
  ROOT %h = f32[16,4]{1,0} all-gather(%b), channel_id=1, replica_groups={}, dimensions={0}
}

%ending (c: f32[4,4]) -> f32[16,4] {
  %c = f32[4,4]{1,0} parameter(0)
  ROOT %j = f32[16,4]{1,0} all-gather(%c), channel_id=1, replica_groups={}, dimensions={0}
}

%body (arg: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %arg = (s32[], f32[4,4]) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%arg), index=1
  %step = f32[16,4]{1,0} fusion(%x), kind=kOutput, calls=%async_collective_fusion.7
  ROOT %next = (s32[], f32[4,4]) tuple(%x, %x)
}

%condition (arg.1: (s32[], f32[4,4])) -> pred[] {
  %arg.1 = (s32[], f32[4,4]) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[4,4], i: s32[]) -> f32[16,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %async-collective-start.3 = f32[16,4]{1,0} fusion(%p), kind=kCustom, calls=%starting
  %start = (s32[], f32[4,4]) tuple(%i, %p)
  %loop = (s32[], f32[4,4]) while(%start), condition=%condition, body=%body
  ROOT %async-collective-done.3 = f32[16,4]{1,0} fusion(%p), kind=kCustom, calls=%ending
}
"""


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "fsdp"))


def found(text, mesh):
    hardware_ = topology.parse(f"cpu:{mesh.size}")
    return {c.kind: c for c in collectives.find(hlo.parse(text), mesh, hardware_, None)}


def test_volumes_of_a_program_written_by_hand(mesh):
    by_kind = found(TEXT, mesh)
    # 5 runs; each device receives the other's 4 x 4 x 4 = 64 bytes.
    assert (by_kind["all-gather"].bytes, by_kind["all-gather"].times) == (5 * 64, 5)
    assert by_kind["all-gather"].axes == ("fsdp",)
    # 2 x 3/4 x 64 over all four; the one whose groups are single devices sends nothing.
    assert (by_kind["all-reduce"].bytes, by_kind["all-reduce"].times) == (96, 1)
    assert by_kind["all-reduce"].axes == ("data", "fsdp")
    assert by_kind["collective-permute"].bytes == 64
    assert by_kind["collective-permute"].axes == ("fsdp",)


def test_a_transfer_that_goes_on_beside_a_loop_counts_once(mesh):
    (found,) = collectives.find(hlo.parse(ASYNC), mesh, topology.parse("cpu:4"), None)
    assert (found.kind, found.times, found.bytes) == ("all-gather", 1, 3 * 64)


def test_the_largest_of_a_kind_is_named(mesh):
    more = "%more = f32[64]{0} all-reduce(%big), replica_groups={}, to_apply=%add"
    more += ', metadata={op_name="jit(step)/jvp()/BTI,IO->BTO/dot_general"}'
    text = TEXT.replace("  %sum =", f"  %big = f32[64]{{0}} constant({{...}})\n  {more}\n  %sum =")
    reduced = found(text, mesh)["all-reduce"]
    assert (reduced.bytes, reduced.largest_bytes) == (96 + 6 * 64, 6 * 64)  # 2 x 3/4 x 4 x 64
    assert reduced.largest == "f32[64] BTI,IO->BTO"


def test_an_all_reduce_that_is_sliced_at_once_is_a_reduce_scatter(mesh):
    scatter = found(TEXT, mesh)["reduce-scatter"]
    assert scatter.bytes == 128 // 2  # 1/2 x 8 x 4 x 4 bytes
    assert scatter.axes == ("data",)  # [2,2]<=[2,2]T(1,0) is {0,2},{1,3}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}, x", [(0, 1), (2, 3)]),
        ("{}, x", [(0, 1, 2, 3)]),
        ("[2,2]<=[4], x", [(0, 1), (2, 3)]),
        ("[2,2]<=[2,2]T(1,0), x", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2] {'a'}, x", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2] {'a','b'}, x", [(0, 1, 2, 3)]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [(0, 2), (1, 3)]),
        ("mesh['a'=4], device_ids=(3,2,1,0) {'a':(1)2}, x", [(3, 1), (2, 0)]),
        ("mesh['a'=8] {'a':(2)2}, x", [(0, 2), (1, 3), (4, 6), (5, 7)]),
    ],
)
def test_every_way_of_writing_groups(text, groups):
    assert sorted(collectives.parse_groups(text, 4)) == sorted(groups)


def test_an_all_gather_of_a_compiled_program():
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=split)
    text = jax.jit(lambda x: x * 2.0, out_shardings=whole).lower(x).compile().as_text()
    (gather,) = found(text, mesh).values()
    assert (gather.kind, gather.group, gather.axes) == ("all-gather", 8, ("fsdp",))
    assert gather.bytes == 7 * (64 * 16 * 4) // 8


def test_a_sum_inside_a_compiled_loop_counts_every_turn():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "tensor"))

    def turn(x, _):
        return jax.lax.psum(x, "tensor") * 0.25, None

    def loop(x):
        return jax.lax.scan(turn, x, None, length=6)[0]

    spec = PartitionSpec("data")
    fn = jax.jit(jax.shard_map(loop, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    x = jax.ShapeDtypeStruct((2, 32), jnp.float32, sharding=NamedSharding(mesh, spec))
    (total,) = found(fn.lower(x).compile().as_text(), mesh).values()
    assert (total.kind, total.times, total.axes) == ("all-reduce", 6, ("tensor",))
    assert total.bytes == 6 * 2 * 3 * 32 * 4 // 4  # 2 (g - 1) / g b, six times


def gpus(count):
    devices = [types.SimpleNamespace(process_index=i // 8) for i in range(count)]
    return np.array(devices, object)


def links(devices, shape, axes, name):
    mesh = types.SimpleNamespace(devices=devices.reshape(shape), axis_names=axes)
    hardware_ = topology.parse(name)
    kind = {"gpu": "NVIDIA H100 80GB HBM3", "tpu": "TPU v5"}[hardware_.platform]
    return collectives.Links(mesh, hardware_, hardware.chip(kind))


def test_inside_a_node_it_is_nvlink_and_across_every_gpu_brings_its_own_port():
    found = links(gpus(16), (2, 8), ("data", "fsdp"), "gpu:h100:16")
    assert found.of([tuple(range(8))]) == ("NVLink", 450e9)
    assert found.of([(0, 8)]) == ("IB", 50e9)
    assert found.of([tuple(range(16))]) == ("IB", 8 * 50e9)
    # One group that crosses decides for all.
    assert found.of([(0, 1), (0, 8)])[0] == "IB"


def test_a_group_uses_the_torus_dimensions_that_it_spans():
    at = [(x, y, z) for x in range(4) for y in range(4) for z in range(4)]
    devices = np.empty(64, object)
    devices[:] = [types.SimpleNamespace(coords=c) for c in at]
    found = links(devices, (16, 4), ("fsdp", "tensor"), "tpu:v5p:4x4x4")
    # A closed dimension is a ring: 2 ports of 100 GB/s. Two of them: 4 ports.
    assert found.of([tuple(range(4))]) == ("ICI", 200e9)
    assert found.of([tuple(range(16))]) == ("ICI", 400e9)
    # Half a dimension is a line: one port.
    assert found.of([(0, 1)]) == ("ICI", 100e9)


def test_what_is_sent_between_slices_goes_over_the_data_center_network():
    text = """\
ENTRY %main (p: f32[256]) -> f32[256] {
  %p = f32[256]{0} parameter(0)
  %t = token[] after-all()
  %s = (f32[256]{0}, u32[], token[]) send(%p, %t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %done = token[] send-done(%s), channel_id=1
  ROOT %out = f32[256]{0} copy(%p)
}
"""
    devices = np.empty(8, object)
    devices[:] = [types.SimpleNamespace(coords=(i % 4, 0), slice_index=i // 4) for i in range(8)]
    mesh = types.SimpleNamespace(devices=devices.reshape(2, 4), axis_names=("data", "fsdp"), size=8)
    hardware_, chip = topology.parse("tpu:v5e:2x2:2"), hardware.chip("TPU v5e")
    (sent,) = collectives.find(hlo.parse(text), mesh, hardware_, chip)
    assert (sent.kind, sent.axes, sent.link, sent.group) == ("all-reduce", ("data",), "DCN", 2)
    assert sent.bytes == 1024 and sent.bandwidth == 3.125e9


def test_rings_in_both_directions_share_the_time():
    pair = "source_target_pairs={{0,1},{1,2},{2,0}}", "source_target_pairs={{1,0},{2,1},{0,2}}"
    text = "ENTRY %main (p: f32[4]) -> f32[4] {\n  %p = f32[4]{0} parameter(0)\n"
    for i, pairs in enumerate(pair):
        text += f"  %r{i} = f32[4]{{0}} collective-permute(%p), {pairs}\n"
    one = text.replace(f"  %r1 = f32[4]{{0}} collective-permute(%p), {pair[1]}\n", "") + "}\n"
    devices = np.empty(3, object)
    devices[:] = [types.SimpleNamespace(process_index=0) for _ in range(3)]
    mesh = types.SimpleNamespace(devices=devices, axis_names=("fsdp",), size=3)
    chip, hardware_ = hardware.chip("NVIDIA H100 80GB HBM3"), topology.parse("gpu:h100:3")

    def seconds(program):
        return sum(c.seconds for c in collectives.find(hlo.parse(program), mesh, hardware_, chip))

    both = text.replace("ROOT", "") + "}\n"
    fix = "  %r0 = ", "  ROOT %r0 = "
    assert seconds(both.replace(*fix)) == pytest.approx(seconds(one.replace(*fix)))
