"""Settings of one kind that only the mesh can judge: what it refuses, and what "auto" is on it."""

import dataclasses
from typing import cast

from llama_jax.config.model import DEFAULT_CHUNK, AttentionImpl, ContextParallel
from llama_jax.config.train import TrainConfig
from llama_jax.kernels.attention import api, cudnn, gpu_tiles, tiles, triton_tiles, ulysses
from llama_jax.sharding.layout import Layout
from llama_jax.telemetry import hardware

# Share of the peak that attention kernels reach on long rows (0.55 on H100: FlashAttention-3,
# arXiv:2407.08608), which decides how long a step of the ring computes.
ATTENTION_EFFICIENCY = 0.55
# The backward pass moves three times the bytes for 2.5 times the operations.
BACKWARD = 1.2


def resolve(config: TrainConfig, layout: Layout) -> TrainConfig:
    """Returns the settings with compute.context_parallel decided, if this mesh can run them.

    Raises:
        ValueError: It cannot; the message says which settings exclude each other.
    """
    parts = layout.ways("sequence")
    _check_rows(config, layout)
    _check_quantization(config, layout)
    config = _with_attention(config, layout)
    method = config.compute.context_parallel
    if parts == 1:
        if method != "auto":
            raise ValueError(
                f"config.compute.context_parallel is {method!r} but no sequence is split on this "
                "mesh, so it has no effect. Set --config.mesh.context, or leave it 'auto'."
            )
        return config
    _check_sequence(config, parts)
    if method == "auto":
        method = _favoured(config, layout, hardware.chip(layout.device_kind))
    if method == "ring" and config.compute.attention == "reference":
        raise ValueError(
            "config.compute.context_parallel is 'ring' but config.compute.attention is "
            "'reference', which computes no log-sum-exp to merge parts by. Use "
            "--config.compute.attention=chunked, or --config.compute.context_parallel=gather."
        )
    if method == "ulysses" and not _deals_out(config, layout):
        raise ValueError(
            f"config.compute.context_parallel is 'ulysses' but {parts} devices that split a "
            f"sequence cannot deal out {config.model.heads} query heads over "
            f"config.mesh.tensor={layout.ways('heads')} x config.mesh.context={parts}. Use "
            "--config.compute.context_parallel=auto, or a smaller --config.mesh.context."
        )
    compute = dataclasses.replace(config.compute, context_parallel=method)
    return dataclasses.replace(config, compute=compute)


def _with_attention(config: TrainConfig, layout: Layout) -> TrainConfig:
    """Returns the settings with compute.attention decided."""
    kind, said = layout.device_kind, config.compute.attention
    if said == "tpu" and kind not in tiles.CHIPS:
        raise ValueError(
            f"config.compute.attention is 'tpu' but the devices are {kind!r}; it must be one of "
            f"{', '.join(tiles.CHIPS)}. Use --config.compute.attention=auto."
        )
    if config.compute.dtype == "float16" and kind in tiles.CHIPS:
        raise ValueError(
            f"config.compute.dtype is 'float16' but the devices are {kind!r}, which multiply "
            "bfloat16. Use --config.compute.dtype=bfloat16."
        )
    if said in ("gpu", "gpu_fused"):
        _check_gpu(config, kind)
    if said == "cudnn":
        _check_cudnn(config, layout)
    if said == "triton":
        _check_triton(config, kind)
    if said != "auto":
        return config
    tokens = config.data.sequence_length // layout.ways("sequence")
    chosen = cast(AttentionImpl, api.choose(said, tokens, kind))
    # The chunk is for where "auto" is "chunked".
    chunk = config.compute.attention_chunk if chosen == "chunked" else DEFAULT_CHUNK
    compute = dataclasses.replace(config.compute, attention=chosen, attention_chunk=chunk)
    return dataclasses.replace(config, compute=compute)


def _check_gpu(config: TrainConfig, kind: str) -> None:
    said = f"config.compute.attention is {config.compute.attention!r} but"
    if not gpu_tiles.is_hopper(kind):
        raise ValueError(
            f"{said} the devices are {kind!r}; it needs Hopper GPUs (H100, H200, GH200). Use "
            "--config.compute.attention=auto."
        )
    if config.compute.dtype == "float32":
        raise ValueError(
            f"{said} config.compute.dtype is 'float32'; its tensor cores take 16 bits. Use "
            "--config.compute.dtype=bfloat16, or --config.compute.attention=chunked."
        )
    if (most := gpu_tiles.HEAD_SIZES[-1]) < config.model.head_dim:
        raise ValueError(
            f"{said} config.model.head_dim is {config.model.head_dim}; it must be at most {most}. "
            "Use --config.compute.attention=chunked."
        )


def _check_cudnn(config: TrainConfig, layout: Layout) -> None:
    why = cudnn.refusal(layout.device_kind, config.model.head_dim, config.compute.dtype)
    if why is None and layout.ways("sequence") > 1:
        why = "takes whole rows, but config.mesh.context splits them. Use 'chunked'"
    if why is not None:
        raise ValueError(f"config.compute.attention 'cudnn' {why}.")


def _check_triton(config: TrainConfig, kind: str) -> None:
    said = "config.compute.attention is 'triton' but"
    if not triton_tiles.is_known(kind):
        raise ValueError(
            f"{said} the devices are {kind!r}; it needs NVIDIA GPUs of compute capability 8.0 "
            "(A100) or newer. Use --config.compute.attention=auto."
        )
    if (most := triton_tiles.HEAD_SIZES[-1]) < config.model.head_dim:
        raise ValueError(
            f"{said} config.model.head_dim is {config.model.head_dim}; it must be at most {most}. "
            "Use --config.compute.attention=chunked."
        )


def ring_pays(S: int, parts: int, heads: int, kv_heads: int, flops: float, bytes_: float) -> bool:
    """Returns whether a step of the ring computes longer than the next keys travel.

    Per step and row a device computes 4 (S/P)^2 N H / 2 operations (zigzag: half of its scores are
    seen) while 4 (S/P) K H bytes of bfloat16 keys and values arrive, so

        S / P > 2 (K / N) flops / bytes

    Args:
        S: Tokens of a row.
        parts: P, devices that share it.
        heads: N, query heads.
        kv_heads: K, key heads.
        flops: Operations per second that attention reaches on one device.
        bytes_: Bytes per second from one neighbour.
    """
    return S / parts > BACKWARD * 2 * kv_heads / heads * flops / bytes_


def dealing_moves_less(heads: int, kv_heads: int, parts: int) -> bool:
    """Returns whether dealing out heads moves fewer bytes than gathering keys and values.

    Per token 2 (N + K) H / P numbers against 2 K H, each times (P - 1) / P.
    """
    return heads + kv_heads < kv_heads * parts


def _favoured(config: TrainConfig, layout: Layout, chip: hardware.Chip | None) -> ContextParallel:
    """Returns what moves least in sight of the computation: see sharding/README.md."""
    if chip is None:
        return "gather"
    model, S, parts = config.model, config.data.sequence_length, layout.ways("sequence")
    if dealing_moves_less(model.heads, model.kv_heads, parts) and _deals_out(config, layout):
        return "ulysses"
    if config.compute.attention == "reference":
        return "gather"
    flops = ATTENTION_EFFICIENCY * chip.peak_flops
    pays = ring_pays(S, parts, model.heads, model.kv_heads, flops, chip.links.near_bandwidth)
    return "ring" if pays else "gather"


def _deals_out(config: TrainConfig, layout: Layout) -> bool:
    """Returns whether the heads of one device can be dealt out to those that split a sequence."""
    heads = config.model.heads // layout.ways("heads")
    kv_heads = max(config.model.kv_heads // layout.ways("kv_heads"), 1)
    try:
        ulysses.key_copies(heads, kv_heads, layout.ways("sequence"))
    except ValueError:
        return False
    return True


def _check_rows(config: TrainConfig, layout: Layout) -> None:
    ways, rows = layout.ways("batch"), config.data.batch_size
    if rows % (ways * config.accumulate):
        raise ValueError(
            f"config.data.batch_size is {rows}; on this mesh it must be a multiple of {ways} "
            f"devices that split rows x {config.accumulate} micro-batches. Set "
            "--config.data.batch_size, --config.accumulate or the axes of --config.mesh."
        )


def _check_quantization(config: TrainConfig, layout: Layout) -> None:
    split = [dim for dim in ("embed", "heads", "mlp", "vocab") if layout.ways(dim) > 1]
    if config.lora.quantization != "none" and split:
        sizes = layout.mesh.shape
        axes = sorted({axis for dim in split for axis in layout.axes(dim) if sizes[axis] > 1})
        raise ValueError(
            f"config.lora.quantization is {config.lora.quantization!r} but the mesh splits weights "
            f"over {', '.join(axes)}, and a quantized base is whole on every device. Use "
            "--config.mesh.data=-1 and 1 for the other axes, or --config.lora.quantization=none."
        )


def _check_sequence(config: TrainConfig, parts: int) -> None:
    length = config.data.sequence_length
    if length % (2 * parts):
        raise ValueError(
            f"config.data.sequence_length is {length}; split over {parts} devices "
            f"(config.mesh.context) it must be a multiple of {2 * parts}: each device holds two "
            "equal chunks of every row."
        )
    if config.model.residual_dropout:
        raise ValueError(
            "config.model.residual_dropout is set and config.mesh.context splits sequences: a "
            "token would draw other zeros than on one device. Set "
            "--config.model.residual_dropout=0 or --config.mesh.context=1."
        )
    if config.lora.dropout:
        raise ValueError(
            f"config.lora.dropout is {config.lora.dropout} and config.mesh.context splits "
            "sequences: a token would draw other zeros than on one device. Set "
            "--config.lora.dropout=0 or --config.mesh.context=1."
        )
