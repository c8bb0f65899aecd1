"""Bytes in main memory, by hand."""

from llama_jax.planning import hlo, traffic

TEXT = """\
HloModule m

%copy_layout (c: f32[16,256]) -> f32[16,256] {
  %c = f32[16,256]{1,0} parameter(0)
  ROOT %copied = f32[16,256]{0,1} copy(%c)
}

%slice_and_add (p0: f32[16,256], p1: s32[], p2: f32[256]) -> f32[256] {
  %p0 = f32[16,256]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[256]{0} parameter(2)
  %other = f32[16,256]{0,1} fusion(%p0), kind=kLoop, calls=%copy_layout
  %row = f32[1,256]{1,0} dynamic-slice(%other, %p1, %p1), dynamic_slice_sizes={1,256}
  %flat = f32[256]{0} bitcast(%row)
  ROOT %sum = f32[256]{0} add(%flat, %p2)
}

%put (q0: f32[16,256], q1: s32[], q2: f32[256]) -> f32[16,256] {
  %q0 = f32[16,256]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %q2 = f32[256]{0} parameter(2)
  %as_row = f32[1,256]{1,0} bitcast(%q2)
  ROOT %new = f32[16,256]{1,0} dynamic-update-slice(%q0, %as_row, %q1, %q1)
}

%body (arg: (s32[], f32[16,256], f32[256])) -> (s32[], f32[16,256], f32[256]) {
  %arg = (s32[], f32[16,256], f32[256]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %big = f32[16,256]{1,0} get-tuple-element(%arg), index=1
  %small = f32[256]{0} get-tuple-element(%arg), index=2
  %read = f32[256]{0} fusion(%big, %i, %small), kind=kLoop, calls=%slice_and_add
  %write = f32[16,256]{1,0} fusion(%big, %i, %read), kind=kLoop, calls=%put
  %chip = f32[256]{0:S(1)} copy(%read)
  ROOT %out = (s32[], f32[16,256], f32[256]) tuple(%i, %write, %read)
}

%condition (a: (s32[], f32[16,256], f32[256])) -> pred[] {
  %a = (s32[], f32[16,256], f32[256]) parameter(0)
  %n = s32[] get-tuple-element(%a), index=0
  %most = s32[] constant(10)
  ROOT %less = pred[] compare(%n, %most), direction=LT
}

ENTRY %main (x: f32[16,256], y: f32[256]) -> f32[16,256] {
  %x = f32[16,256]{1,0} parameter(0)
  %y = f32[256]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[16,256], f32[256]) tuple(%zero, %x, %y)
  %loop = (s32[], f32[16,256], f32[256]) while(%start), condition=%condition, body=%body
  %result = f32[16,256]{1,0} get-tuple-element(%loop), index=1
  %row = f32[1,256]{1,0} bitcast(%y)
  %patched = f32[16,256]{1,0} dynamic-update-slice(%result, %row, %zero, %zero)
  ROOT %negative = f32[16,256]{1,0} negate(%patched)
}
"""


def test_a_loop_touches_a_row_at_a_time_and_the_rest_is_whole():
    row, whole, index = 1024, 16 * 1024, 4
    read = row + index + row + row  # the sliced row, where it starts, the other operand, the sum
    # In place: the old row and the new one are touched, not the 16 rows of the buffer.
    write = row + index + row + row
    copy = row  # The copy stays on the chip; only its source is in main memory.
    after = 2 * row + 2 * whole  # A row is patched in place; all of it is negated.
    assert traffic.main_memory_bytes(hlo.parse(TEXT)) == 10 * (read + write + copy) + after
