"""The one public attention function; what it means is in reference.py.

B batch, T query tokens, S key tokens, N query heads, K key heads, H head size.

| impl | what it is | where |
|---|---|---|
| "reference" | the equation, all [T, S] scores at once | anywhere |
| "chunked" | tiles of `chunk` queries by `chunk` keys | anywhere |
| "tpu" | Pallas kernels that visit what the mask lets see each other | TPUs |
| "gpu" | the same for Hopper GPUs; bfloat16 and float16, head sizes to 128 | H100, H200 |
| "gpu_fused" | the same, backward in 5 products for 7; last bits of dq vary | H100, H200 |
| "triton" | the same in Triton; also float32, head sizes to 256 | GPUs from Ampere (A100) on |
| "decode" | at most 16 queries over a long cache, read once; no gradient | NVIDIA, from Ampere on |
| "tpu_interpret" and the like | these kernels in JAX's interpreters, for tests | anywhere |
| "cudnn" | NVIDIA's kernels, for whole rows with no segments | NVIDIA GPUs |
| "auto" | "tpu" on the TPUs it knows, with 128 queries or more; else "chunked" | anywhere |
"""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from llama_jax.kernels.attention import (
    chunked,
    cudnn,
    decode,
    flash,
    gpu,
    gpu_backward,
    gpu_deal,
    gpu_fused,
    gpu_schedule,
    gpu_tiles,
    reference,
    schedule,
    tiles,
    tpu,
    tpu_backward,
    triton,
    triton_backward,
    triton_tiles,
)
from llama_jax.kernels.attention.mask import Mask

_TPU = flash.Kernels(tpu.forward, tpu_backward.backward, schedule.make)
_GPU = flash.Kernels(gpu.forward, gpu_backward.backward, gpu_deal.make)
_GPU_FUSED = flash.Kernels(gpu.forward, gpu_fused.backward, gpu_deal.make)
_TRITON = flash.Kernels(triton.forward, triton_backward.backward, gpu_schedule.make)
KERNELS = {
    "tpu": _TPU,
    "tpu_interpret": _TPU,
    "gpu": _GPU,
    "gpu_interpret": _GPU,
    "gpu_fused": _GPU_FUSED,
    "gpu_fused_interpret": _GPU_FUSED,
    "triton": _TRITON,
    "triton_interpret": _TRITON,
}
DECODE = ("decode", "decode_interpret")
IMPLEMENTATIONS = ("auto", "reference", "chunked", "cudnn", *KERNELS, *DECODE)
SIMULATED = "TPU v5 lite"  # The chip whose tiles "tpu_interpret" takes.


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of one attention."""

    B: int
    T: int
    S: int
    N: int
    K: int
    H: int
    itemsize: int  # Bytes of one number of q, k and v.


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    impl: str = "auto",
    chunk: int = 128,
    device_kind: str | None = None,
) -> jax.Array:
    """Returns softmax(q k' / sqrt(H)) v as [B, T, N, H]; rows with nothing to attend to are 0.

    Implementations differ by rounding only.

    Args:
        q_BTNH: Queries, float32, bfloat16 or float16; keys and values have the same dtype.
        k_BSKH: Keys; K divides N.
        v_BSKH: Values.
        mask: Which keys each query sees.
        impl: See the table above.
        chunk: Side of a tile of "chunked"; without effect elsewhere.
        device_kind: Where it will run, as jax.Device says; None is the first of this process.

    Raises:
        ValueError: Shapes or dtypes do not fit together, or `impl` cannot compute them.
    """
    _check(q_BTNH, k_BSKH, v_BSKH, mask)
    shape = shape_of(q_BTNH, k_BSKH)
    impl = choose(impl, shape.T, device_kind)
    if impl == "reference":
        return reference.attention(q_BTNH, k_BSKH, v_BSKH, mask)
    if impl == "chunked":
        return chunked.attention(_checked(chunk), q_BTNH, k_BSKH, v_BSKH, mask)
    if impl == "cudnn":
        return cudnn.attention(q_BTNH, k_BSKH, v_BSKH, mask, device_kind or _local_kind())
    if impl in DECODE:
        first = jnp.zeros((), jnp.int32)
        return _decode(impl, q_BTNH, k_BSKH[None], v_BSKH[None], first, mask, device_kind)
    setup = setup_of(impl, shape, device_kind)
    mask = planned(_schedule(impl), mask, setup, shape)
    return flash.attention(KERNELS[impl], setup, q_BTNH, k_BSKH, v_BSKH, mask)


def over_cache(impl: str, T: int) -> str:
    """Returns the implementation for T queries over a cache.

    The kernels for GPUs, which go by tiles of queries, leave a few of them to "decode".
    """
    if T > decode.MOST_QUERIES or KERNELS.get(impl) not in (_GPU, _GPU_FUSED, _TRITON):
        return impl
    return "decode_interpret" if impl.endswith("_interpret") else "decode"


def cached(
    q_BTNH: jax.Array,
    k_LBSKH: jax.Array,
    v_LBSKH: jax.Array,
    layer: jax.Array,
    mask: Mask,
    impl: str = "auto",
    chunk: int = 128,
    device_kind: str | None = None,
) -> jax.Array:
    """Returns `attention` to the keys and values of one layer, an i32 scalar, of a cache.

    "decode" reads them where they lie; XLA would copy them before it calls a kernel.
    """
    T = q_BTNH.shape[1]
    impl = over_cache(choose(impl, T, device_kind), T)
    if impl in DECODE:
        return _decode(impl, q_BTNH, k_LBSKH, v_LBSKH, layer, mask, device_kind)
    k_BSKH, v_BSKH = (
        lax.dynamic_index_in_dim(x_LBSKH, layer, keepdims=False).astype(q_BTNH.dtype)
        for x_LBSKH in (k_LBSKH, v_LBSKH)
    )
    return attention(q_BTNH, k_BSKH, v_BSKH, mask, impl, chunk, device_kind)


def _decode(
    impl: str, q_BTNH, k_LBSKH, v_LBSKH, layer, mask: Mask, device_kind: str | None
) -> jax.Array:
    k_BSKH, v_BSKH = (jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in (k_LBSKH, v_LBSKH))
    _check(q_BTNH, k_BSKH, v_BSKH, mask)
    shape = shape_of(q_BTNH, k_BSKH)
    setup = setup_of(impl, shape, device_kind)
    mask = planned(decode.make, mask, setup, shape)
    return decode.attention(setup, q_BTNH, k_LBSKH, v_LBSKH, layer, mask)


def choose(impl: str, T: int, device_kind: str | None = None) -> str:
    """Returns the implementation for T queries on a kind of device; never "auto"."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLEMENTATIONS)}.")
    if impl != "auto":
        return impl
    kind = device_kind or _local_kind()
    choice = "tpu" if T >= tiles.LANES and kind in tiles.CHIPS else "chunked"
    _say(f"attention 'auto' is {choice!r} for {T} queries on {kind}")
    return choice


def _local_kind() -> str:
    return jax.devices()[0].device_kind


@functools.cache
def _say(message: str) -> None:
    """Logs a message, once."""
    logging.getLogger(__name__).info(message)


def prepare(mask: Mask, impl: str, shape: Shape, device_kind: str | None = None) -> Mask:
    """Returns the mask with what the kernel can work out before it sees q, k and v.

    Once per step, outside the loop over layers. Without it every layer does so for itself.
    """
    impl = choose(impl, shape.T, device_kind)
    if impl not in (*KERNELS, *DECODE):
        return mask
    return planned(_schedule(impl), mask, setup_of(impl, shape, device_kind), shape)


def _schedule(impl: str) -> flash.Schedule:
    return decode.make if impl in DECODE else KERNELS[impl].schedule


def planned(schedule: flash.Schedule, mask: Mask, setup: Any, shape: Shape) -> Mask:
    """Returns the mask with what the kernels of this schedule need.

    Raises:
        ValueError: It has one already, made for another shape.
    """
    sizes = shape.B, shape.T, shape.S
    if mask.plan is None:
        return dataclasses.replace(mask, plan=schedule(mask, setup, *sizes))
    if (mask.plan.setup, mask.plan.sizes) != (setup, sizes):
        raise ValueError(
            f"the mask was prepared for B, T, S = {mask.plan.sizes} and {mask.plan.setup}; here "
            f"they are {sizes} and {setup}. Prepare it again, or leave out its plan."
        )
    return mask


def setup_of(impl: str, shape: Shape, device_kind: str | None = None) -> Any:
    """Returns how these kernels compute this shape."""
    interpret = impl.endswith("_interpret")
    chip = SIMULATED if interpret else device_kind or _local_kind()
    if impl in DECODE:
        _check_decode(chip, shape, interpret)
        sizes = shape.B, shape.T, shape.S, shape.N, shape.K, shape.H
        return decode.setup(*sizes, shape.itemsize, interpret)
    if KERNELS[impl] in (_GPU, _GPU_FUSED):
        _check_gpu(impl, chip, shape, interpret)
        return gpu_tiles.setup(shape.N, shape.K, shape.H, chip, interpret)
    if KERNELS[impl] is _TRITON:
        _check_triton("triton", chip, interpret)
        return triton_tiles.setup(shape.H, shape.itemsize, interpret)
    sizes = shape.T, shape.S, shape.N, shape.K, shape.H, shape.itemsize
    return tiles.setup(chip, *sizes, interpret=interpret)


def _check_gpu(impl: str, device_kind: str, shape: Shape, interpret: bool) -> None:
    if not interpret and not gpu_tiles.is_hopper(device_kind):
        raise ValueError(
            f"attention {impl!r} is for Hopper GPUs (H100, H200, GH200), but this is "
            f"{device_kind!r}. Use attention 'auto'."
        )
    if shape.itemsize != 2:
        raise ValueError(
            f"attention {impl!r} takes bfloat16 or float16 but q, k, v are float32. Use attention "
            "'chunked' for float32."
        )


def _check_triton(impl: str, device_kind: str, interpret: bool) -> None:
    if not interpret and not triton_tiles.is_known(device_kind):
        raise ValueError(
            f"attention {impl!r} is for NVIDIA GPUs of compute capability 8.0 (A100) or newer, but "
            f"this is {device_kind!r}. Use attention 'auto'."
        )


def _check_decode(device_kind: str, shape: Shape, interpret: bool) -> None:
    if shape.T > decode.MOST_QUERIES:
        raise ValueError(
            f"attention 'decode' takes at most {decode.MOST_QUERIES} queries, but there are "
            f"{shape.T}. Use attention 'auto' for prompts."
        )
    if shape.H > decode.MOST_HEAD:
        raise ValueError(
            f"head_dim is {shape.H}; attention 'decode' takes at most {decode.MOST_HEAD}. Use "
            "attention 'chunked' there."
        )
    _check_triton("decode", device_kind, interpret)


def shape_of(q_BTNH: jax.Array, k_BSKH: jax.Array | jax.ShapeDtypeStruct) -> Shape:
    """Returns the sizes of these arrays."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    return Shape(B, T, S, N, K, H, q_BTNH.dtype.itemsize)


@dataclasses.dataclass(frozen=True)
class Parts:
    """An implementation that attends to a part of a row's keys, for parts that are merged.

    `kernels` and their setup are None for "chunked".
    """

    chunk: int
    kernels: flash.Kernels | None = None
    setup: Any = None

    def forward(self, q_BTNH, k_BSKH, v_BSKH, mask: Mask) -> tuple[jax.Array, jax.Array]:
        """Returns the output f32 [B, T, N, H] and log(sum(exp(score))) f32 [B, K, G, T]."""
        if self.kernels is None:
            return chunked.forward(self.chunk, q_BTNH, k_BSKH, v_BSKH, mask)
        return flash.part_forward(self.kernels, self.setup, q_BTNH, k_BSKH, v_BSKH, mask)

    def backward(
        self, q_BTNH, k_BSKH, v_BSKH, mask: Mask, out_BTNH, log_sum_BKGT, grad_BTNH
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what these keys add to the gradients of q, k and v, in float32."""
        arrays = q_BTNH, k_BSKH, v_BSKH, mask, out_BTNH, log_sum_BKGT, grad_BTNH
        if self.kernels is None:
            return chunked.backward(self.chunk, *arrays)
        return flash.part_backward(self.kernels, self.setup, *arrays)

    def prepare(self, mask: Mask, shape: Shape) -> Mask:
        """Returns the mask with what is the same for all layers."""
        if self.kernels is None:
            return mask
        return planned(self.kernels.schedule, mask, self.setup, shape)


def parts(impl: str, chunk: int, shape: Shape, device_kind: str | None = None) -> Parts:
    """Returns the implementation, if it can be merged from parts."""
    impl = choose(impl, shape.T, device_kind)
    if impl in ("reference", "cudnn", *DECODE):
        raise ValueError(
            f"attention {impl!r} gives no log-sum-exp to merge parts by. Use 'chunked'."
        )
    if impl == "chunked":
        return Parts(_checked(chunk))
    return Parts(chunk, KERNELS[impl], setup_of(impl, shape, device_kind))


def _checked(chunk: int) -> int:
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1.")
    return chunk


def _check(q_BTNH: Any, k_BSKH: Any, v_BSKH: Any, mask: Mask) -> None:
    q, k, v = q_BTNH.shape, k_BSKH.shape, v_BSKH.shape
    if len(q) != 4 or len(k) != 4:
        raise ValueError(f"q is {q} and k is {k}; they must be [B, T, N, H] and [B, S, K, H].")
    if k != v:
        raise ValueError(f"k is {k} but v is {v}; both must be [B, S, K, H].")
    if q[0] != k[0] or q[3] != k[3]:
        raise ValueError(f"q is {q} but k is {k}; they must agree in batch and head size.")
    if q[2] % k[2]:
        raise ValueError(
            f"{q[2]} query heads cannot share {k[2]} key heads; N must be a multiple of K."
        )
    if not q_BTNH.dtype == k_BSKH.dtype == v_BSKH.dtype:
        raise ValueError(
            f"q, k, v are {q_BTNH.dtype}, {k_BSKH.dtype}, {v_BSKH.dtype}; they must be the same."
        )
    if q_BTNH.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f"q, k, v are {q_BTNH.dtype}; they must be float32, bfloat16 or float16.")
    if mask.q_segment_BT is not None and mask.k_segment_BS is not None:
        said, want = (mask.q_segment_BT.shape, mask.k_segment_BS.shape), (q[:2], k[:2])
        if said != want:
            raise ValueError(
                f"mask segments are {said[0]} and {said[1]}; for these q and k they must be "
                f"{want[0]} and {want[1]}."
            )
