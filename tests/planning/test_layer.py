"""The kernels of a layer, of a program by hand: a norm, a copied weight, a product, attention."""

import dataclasses

from llama_jax.planning import layer
from llama_jax.telemetry import hardware

TEXT = """\
HloModule m

FileNames
1 "/somewhere/llama_jax/model/norm.py"
2 "/somewhere/llama_jax/model/product.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=1 end_line=1 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%scaled (p: bf16[64,32]) -> bf16[64,32] {
  %p = bf16[64,32]{1,0} parameter(0)
  ROOT %y = bf16[64,32]{1,0} negate(%p), metadata={op_name="mul" stack_frame_id=1}
}

%body (arg: (s32[], bf16[64,32], bf16[5,32,16], bf16[1,2,64,16])) -> (s32[], bf16[64,32]) {
  %arg = (s32[], bf16[64,32], bf16[5,32,16], bf16[1,2,64,16]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = bf16[64,32]{1,0} get-tuple-element(%arg), index=1
  %stack = bf16[5,32,16]{2,1,0} get-tuple-element(%arg), index=2
  %q = bf16[1,2,64,16]{3,2,1,0} get-tuple-element(%arg), index=3
  %normed = bf16[64,32]{1,0} fusion(%x), kind=kLoop, calls=%scaled
  %w = bf16[1,32,16]{2,1,0} dynamic-slice(%stack, %i), metadata={op_name="a/jit(dynamic_index_in_dim)/b"}
  %m = bf16[32,16]{1,0} bitcast(%w)
  %xw = (bf16[64,16]{1,0}, s8[64]{0}) custom-call(%normed, %m), custom_call_target="__cublas$gemm", metadata={op_name="dot" stack_frame_id=2}
  %o = (bf16[1,2,64,16]{3,2,1,0}, f32[1,2,64]{2,1,0}) custom-call(%q, %q, %q), custom_call_target="mosaic", metadata={op_name="transpose(jvp())/attention_backward_dq/call"}
  ROOT %out = (s32[], bf16[64,32], bf16[5,32,16], bf16[1,2,64,16]) tuple(%i, %normed, %stack, %q)
}

%condition (a: (s32[], bf16[64,32])) -> pred[] {
  %a = (s32[], bf16[64,32], bf16[5,32,16], bf16[1,2,64,16]) parameter(0)
  %n = s32[] get-tuple-element(%a), index=0
  %most = s32[] constant(5)
  ROOT %less = pred[] compare(%n, %most), direction=LT
}

ENTRY %main (x: bf16[64,32]) -> bf16[64,32] {
  %x = bf16[64,32]{1,0} parameter(0)
  %start = (s32[], bf16[64,32], bf16[5,32,16], bf16[1,2,64,16]) tuple(%x)
  %loop = (s32[], bf16[64,32]) while(%start), condition=%condition, body=%body
  ROOT %result = bf16[64,32]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_each_kernel_has_its_purpose_its_bytes_and_its_operations():
    x, w, y, q = 2 * 64 * 32, 2 * 32 * 16, 2 * 64 * 16, 2 * 2 * 64 * 16
    found = {kernel.name: kernel for kernel in layer.kernels(TEXT, layers=5)}
    said = {name: (k.purpose, k.bytes, round(k.flops)) for name, k in found.items()}
    assert said == {
        "normed": ("RMSNorm", 2 * x, 0),
        "w": ("reading from the stack of layers", 2 * w, 0),
        "xw": ("product", x + w + y + 64, 2 * 64 * 32 * 16),
        # Three products of T x T x H for 2 heads, the causal half.
        "o": ("attention", 4 * q + 4 * 2 * 64, 3 * 2 * 64 * 64 * 16),
    }
    assert {kernel.part for kernel in found.values()} == {"backward"}
    assert [k.name for k in layer.elementwise(list(found.values()))] == ["normed", "w"]


def test_loops_of_another_length_are_not_layers():
    assert layer.kernels(TEXT, layers=4) == []


def test_the_slower_of_memory_and_products_takes_the_time():
    chip = dataclasses.replace(hardware.CHIPS["TPU v5p"], peak_flops=100.0, memory_bandwidth=10.0)
    kernel = layer.Kernel("k", "forward", "product", bytes=30, flops=200.0, results="")
    assert kernel.seconds(chip) == 3.0
    assert kernel.seconds(chip, efficiency=0.5) == 4.0
