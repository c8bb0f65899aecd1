"""The shape of a Llama, and how it is computed."""

import dataclasses
from dataclasses import field
from typing import Literal

from llama_jax.config.rope import RopeConfig

Dtype = Literal["float32", "bfloat16"]
ComputeDtype = Literal["float32", "bfloat16", "float16"]
AttentionImpl = Literal[
    "auto",
    "reference",
    "chunked",
    "tpu",
    "tpu_interpret",
    "gpu",
    "gpu_fused",
    "triton",
    "cudnn",
]
DEFAULT_CHUNK = 128
ContextParallel = Literal["auto", "gather", "ring", "ulysses"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Letters are the ones used as shape suffixes everywhere (llama_jax/model/README.md)."""

    layers: int  # L
    embed: int  # D
    mlp: int  # F
    heads: int  # N, query heads
    kv_heads: int  # K; N/K query heads share one (grouped-query attention)
    head_dim: int  # H
    vocab: int  # V
    context: int = 4096  # Longest sequence in tokens (Hugging Face: max_position_embeddings).
    norm_eps: float = 1e-5
    tie_embeddings: bool = False  # The head is the transposed embedding.
    attention_bias: bool = False  # Biases on q, k, v and o.
    # Sliding window in tokens (Mistral): a query sees itself and window - 1 tokens before it.
    window: int | None = None
    # "lima" dropout on each residual branch: 0 in the first layer, this in the last.
    residual_dropout: float = 0.0
    init_std: float = 0.02  # Normal initialisation of every matrix, as in Hugging Face.
    rope: RopeConfig = field(default_factory=RopeConfig)

    def __post_init__(self):
        for name in ("layers", "embed", "mlp", "heads", "kv_heads", "head_dim", "vocab", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads is {self.heads}; it must be a multiple of kv_heads ({self.kv_heads})."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}; rotary embedding turns pairs, so it must be even."
            )
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps is {self.norm_eps}; it must be positive (Llama 2: 1e-5).")
        if self.init_std <= 0:
            raise ValueError(f"init_std is {self.init_std}; it must be positive (Llama 2: 0.02).")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1, or None for all.")
        if not 0 <= self.residual_dropout < 1:
            raise ValueError(f"residual_dropout is {self.residual_dropout}; it must be in [0, 1).")
        if self.residual_dropout and self.layers == 1:
            raise ValueError(
                "residual_dropout grows from 0 in the first layer, so it has no effect with "
                "layers = 1. Set residual_dropout to 0."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the model is computed: changes speed and memory, and results only by rounding."""

    param_dtype: Dtype = "float32"  # How parameters are stored.
    # How matrices are multiplied; sums and softmax are float32. "float16" is for GPUs without
    # bfloat16 (V100, T4): training scales the loss (loss_scale).
    dtype: ComputeDtype = "bfloat16"
    # "tpu", "gpu" and "triton" are Pallas kernels for TPUs, Hopper GPUs and GPUs from Ampere on,
    # "gpu_fused" is "gpu" with a backward pass of fewer products, whose sums come in any order: the
    # last bits of gradients differ from run to run. "cudnn" is NVIDIA's, for rows of one document.
    # "auto" is "tpu" on TPUs and "chunked" elsewhere; "tpu_interpret" runs that kernel's code on
    # any platform, for tests: slow.
    attention: AttentionImpl = "auto"
    attention_chunk: int = DEFAULT_CHUNK  # Queries and keys per tile of "chunked" attention.
    # How a sequence split over mesh.context attends: "gather" fetches all keys and values, "ring"
    # passes them on from device to device, "ulysses" deals out heads instead of tokens, and "auto"
    # takes what the links of the chip favour.
    context_parallel: ContextParallel = "auto"
    # What the backward pass keeps instead of recomputing: "none" keeps everything (no remat),
    # "minimal" the outputs of matrix products and of attention, "attention" only attention's,
    # "full" only each layer's input, "offload" only that and in host memory.
    remat: Literal["none", "minimal", "attention", "full", "offload"] = "full"

    def __post_init__(self):
        if self.attention_chunk < 1:
            raise ValueError(f"attention_chunk is {self.attention_chunk}; it must be at least 1.")
        own_tiles = self.attention in ("tpu", "gpu", "gpu_fused", "triton", "cudnn")
        if own_tiles and self.attention_chunk != DEFAULT_CHUNK:
            raise ValueError(
                f"attention_chunk is {self.attention_chunk} but attention is {self.attention!r}, "
                f"which has tiles of its own, so it has no effect. Leave it {DEFAULT_CHUNK}."
            )
        if self.dtype == "float16" and self.attention in ("tpu", "tpu_interpret"):
            raise ValueError(
                f"dtype is 'float16' but attention is {self.attention!r}; TPUs multiply bfloat16. "
                "Set dtype to 'bfloat16'."
            )
        if self.attention == "cudnn" and self.remat == "attention":
            raise ValueError(
                "remat is 'attention' but attention is 'cudnn', whose log-sum-exp cannot be kept, "
                "so it would run again all the same. Set remat to 'minimal' or 'full'."
            )
