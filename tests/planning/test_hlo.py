"""Programs as text: what calls what, and how often."""

# ruff: noqa: E501  (a program has long lines)

from llama_jax.planning import hlo

TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (arg.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg.1 = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  ROOT %again = (s32[], f32[8]) copy(%arg.1)
}

%inner_condition (arg.2: (s32[], f32[8])) -> pred[] {
  %arg.2 = (s32[], f32[8]) parameter(0)
  %counter = s32[] get-tuple-element(%arg.2), index=0
  %three = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%counter, %three), direction=LT
}

%outer_body (arg.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg.3 = (s32[], f32[8]) parameter(0)
  ROOT %loop.1 = (s32[], /*index=1*/f32[8]{0:T(256)S(1)}) while(%arg.3), condition=%inner_condition, body=%inner_body
}

%outer_condition (arg.4: (s32[], f32[8])) -> pred[] {
  %arg.4 = (s32[], f32[8]) parameter(0)
  ROOT %some = pred[] custom-call(%arg.4), custom_call_target="x"
}

%fused (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} add(%p0, %p0)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]) tuple(%zero, %p)
  %known = (s32[], f32[8]) while(%start), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %unknown = (s32[], f32[8]) while(%known), condition=%outer_condition, body=%inner_body
  %value = f32[8]{0} get-tuple-element(%unknown), index=1
  %total = f32[] reduce(%value, %zero), dimensions={0}, to_apply=%add
  ROOT %out = f32[8]{0} fusion(%value), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/mul"}
}
"""


def test_a_computation_runs_as_often_as_the_loops_around_it():
    runs = hlo.parse(TEXT).runs
    assert runs["main"] == 1 and runs["fused"] == 1
    assert runs["outer_body"] == 5
    # 5 x 3 in the nested loops (the bound is the condition's constant), once where no bound stands.
    assert runs["inner_body"] == 5 * 3 + 1


def test_scalar_functions_of_reductions_and_conditions_do_not_run():
    runs = hlo.parse(TEXT).runs
    assert "add" not in runs and "inner_condition" not in runs


def test_shapes_are_read_with_layouts_tuples_and_memory_spaces():
    module = hlo.parse(TEXT)
    loop = module.computations["outer_body"]["loop.1"]
    assert [array.dims for array in loop.arrays] == [(), (8,)]
    assert [array.space for array in loop.arrays] == [0, 1]
    assert loop.bytes == 4 + 8 * 4
    (array,) = hlo.arrays("bf16[8,4096,512]{2,1,0:T(8,128)(2,1)}")
    assert array.bytes == 2 * 8 * 4096 * 512
    sizes = [array.bytes for array in hlo.arrays("(pred[3], s4[4], f8e4m3fn[5], c64[2], token[])")]
    assert sizes == [3, 2, 5, 16, 0]


def test_operands_and_origin_are_read():
    out = hlo.parse(TEXT).computations["main"]["out"]
    assert out.operands == ("value",) and out.is_root
    assert out.op_name == "jit(step)/mul"
