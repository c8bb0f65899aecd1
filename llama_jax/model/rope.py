"""Rotary position embedding: frequencies, and turning heads by them.

Dimensions: B batch, T tokens, N heads, H head size, R = H/2 rotated pairs.
Su et al. 2021, https://arxiv.org/abs/2104.09864
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from llama_jax.config.rope import RopeConfig


def inverse_frequencies(config: RopeConfig, H: int) -> np.ndarray:
    """Returns f32[R]: the angle in radians that one token turns each pair of a head.

    Positions are never scaled; every stretching method changes only these frequencies, so the
    cache, the kernels and packed segments need not know. For "dynamic" these are the frequencies
    up to `original_context`; see `dynamic_inverse_frequencies`.
    """
    return _static_frequencies(config, H).astype(np.float32)


def dynamic_base(config: RopeConfig, H: int, length: jax.Array | float) -> jax.Array | float:
    """Returns theta (factor length / M - factor + 1)^(H/(H-2)), M = original_context, length > M.

    The "dynamic NTK" of transformers: the base grows with the sequence itself.
    """
    assert config.original_context is not None
    ratio = config.factor * length / config.original_context - (config.factor - 1)
    return config.theta * ratio ** (H / (H - 2))


def dynamic_inverse_frequencies(config: RopeConfig, H: int, length_B: jax.Array) -> jax.Array:
    """Returns f32[B, R]: the frequencies of rows of `length_B` tokens; up to M the unscaled ones.

    Each new token beyond M changes the angles of all, so such a row must be computed whole.
    """
    assert config.original_context is not None
    longest_B = jnp.maximum(length_B.astype(jnp.float32), config.original_context)
    base_B = jnp.asarray(dynamic_base(config, H, longest_B))
    exponent_R = np.arange(0, H, 2, dtype=np.float32) / H
    return base_B[:, None] ** -exponent_R[None, :]


def attention_factor(config: RopeConfig) -> float:
    """Returns what multiplies cos and sin of queries and keys; logits grow by its square (YaRN)."""
    if config.scaling != "yarn":
        return 1.0
    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale is not None and config.mscale_all_dim is not None:
        return _temperature(config.factor, config.mscale) / _temperature(
            config.factor, config.mscale_all_dim
        )
    return _temperature(config.factor, 1.0)


def cos_sin(
    config: RopeConfig, H: int, position_BT: jax.Array, length_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns cos and sin of position times frequency, each f32[B, T, R].

    Args:
        config: The scaling method.
        H: Head size.
        position_BT: Position of each token in its sequence.
        length_B: Tokens in each row; only "dynamic" reads it.
    """
    if config.scaling == "dynamic":
        inv_freq_BR = dynamic_inverse_frequencies(config, H, length_B)
    else:
        inv_freq_BR = jnp.asarray(inverse_frequencies(config, H))[None, :]
    return _cos_sin(position_BT, inv_freq_BR, attention_factor(config))


@jax.custom_vjp
def rotate(x_BTNH: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array) -> jax.Array:
    """Returns each pair (i, i + H/2) of `x_BTNH` turned by its angle, in the dtype of x.

    The pairs are those of Hugging Face; Meta's weights pair (2i, 2i + 1). cos and sin have no
    gradient.
    """
    # XLA for TPUs would take the projection's float32 instead, and write it.
    return _turned(lax.optimization_barrier, x_BTNH, cos_BTR, sin_BTR)


def _forward(x_BTNH: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array):
    return rotate(x_BTNH, cos_BTR, sin_BTR), (cos_BTR, sin_BTR)


def _backward(saved, grad_BTNH: jax.Array):
    cos_BTR, sin_BTR = saved
    return _turned(lambda x_BTNH: x_BTNH, grad_BTNH, cos_BTR, -sin_BTR), None, None


rotate.defvjp(_forward, _backward)


def _turned(fence, x_BTNH: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array) -> jax.Array:
    if x_BTNH.dtype != jnp.bfloat16:  # TPUs multiply in bfloat16: only there is a product exact.
        return turned_by_halves(x_BTNH, cos_BTR, sin_BTR)

    def on_tpu(x_BTNH, cos_BTR, sin_BTR):
        return turned_by_product(fence(x_BTNH), cos_BTR, sin_BTR)

    return lax.platform_dependent(x_BTNH, cos_BTR, sin_BTR, tpu=on_tpu, default=turned_by_halves)


def turned_by_halves(x_BTNH: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array) -> jax.Array:
    """Returns `rotate`, the two halves of a head apart."""
    cos_BT1R, sin_BT1R = cos_BTR[:, :, None, :], sin_BTR[:, :, None, :]
    left_BTNR, right_BTNR = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    out_BTNH = jnp.concatenate(
        [
            left_BTNR * cos_BT1R - right_BTNR * sin_BT1R,
            right_BTNR * cos_BT1R + left_BTNR * sin_BT1R,
        ],
        axis=-1,
    )
    return out_BTNH.astype(x_BTNH.dtype)


def turned_by_product(x_BTNH: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array) -> jax.Array:
    """Returns `rotate` to the last bit; a product exchanges the halves, (l, r) -> (-r, l).

    For TPUs XLA makes one kernel of it. Halves apart are half as wide as a TPU's registers, and
    are written to memory, in float32, before they are put together.
    """
    R = x_BTNH.shape[-1] // 2
    # Each sum has one term other than 0.
    exchange_HI = np.kron([[0, 1], [-1, 0]], np.eye(R))
    other_BTNI = jnp.einsum(
        "BTNH,HI->BTNI",
        x_BTNH,
        jnp.asarray(exchange_HI, x_BTNH.dtype),
        preferred_element_type=jnp.float32,
    )
    cos_BT1H, sin_BT1H = (
        jnp.concatenate([half_BTR, half_BTR], axis=-1)[:, :, None, :]
        for half_BTR in (cos_BTR, sin_BTR)
    )
    return (x_BTNH.astype(jnp.float32) * cos_BT1H + other_BTNI * sin_BT1H).astype(x_BTNH.dtype)


def _cos_sin(
    position_BT: jax.Array, inv_freq_BR: jax.Array, factor: float
) -> tuple[jax.Array, jax.Array]:
    # float32: bfloat16 rounds position 257 to 256, and the angle with it.
    angle_BTR = position_BT.astype(jnp.float32)[:, :, None] * inv_freq_BR[:, None, :]
    return jnp.cos(angle_BTR) * factor, jnp.sin(angle_BTR) * factor


def _static_frequencies(config: RopeConfig, H: int) -> np.ndarray:
    theta_R = _powers(config.theta, H)
    if config.scaling == "linear":  # Chen et al. 2023, https://arxiv.org/abs/2306.15595
        return theta_R / np.float32(config.factor)
    if config.scaling == "ntk":  # bloc97 2023; leaves the fastest pair, divides the last by factor
        return _powers(config.theta * config.factor ** (H / (H - 2)), H)
    if config.scaling == "yarn":
        return _yarn(config, H)
    if config.scaling == "llama3":
        return _llama3(config, H)
    return theta_R


def _powers(base: float, H: int) -> np.ndarray:
    """Returns f32[R] base^(-2i/H), bit for bit as transformers: power and reciprocal rounded."""
    # One ulp here is 2e-3 radians at position 32,768, so an own, "better" rounding would show.
    return np.float32(1) / (base ** (np.arange(0, H, 2) / H)).astype(np.float32)


def _exact_powers(base: float, H: int) -> np.ndarray:
    """Returns f64[R] base^(-2i/H), for the methods that calculate on from it."""
    return base ** -(np.arange(0, H, 2) / H)


def _yarn(config: RopeConfig, H: int) -> np.ndarray:
    """Interpolates slow pairs, keeps fast ones, blends between (https://arxiv.org/abs/2309.00071)."""
    assert config.original_context is not None

    def pair_turning(times: float) -> float:
        assert config.original_context is not None
        return (
            H
            * math.log(config.original_context / (2 * math.pi * times))
            / (2 * math.log(config.theta))
        )

    low, high = pair_turning(config.beta_fast), pair_turning(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, H - 1)
    high += 0.001 * (low == high)
    theta_R = _exact_powers(config.theta, H)
    ramp_R = np.clip((np.arange(H // 2) - low) / (high - low), 0, 1)
    return theta_R / config.factor * ramp_R + theta_R * (1 - ramp_R)


def _llama3(config: RopeConfig, H: int) -> np.ndarray:
    """Keeps short wavelengths, divides long ones by factor, blends between (Llama 3.1)."""
    assert config.original_context is not None
    theta_R = _exact_powers(config.theta, H)
    turns_R = config.original_context * theta_R / (2 * math.pi)
    smooth_R = (turns_R - config.low_freq_factor) / (
        config.high_freq_factor - config.low_freq_factor
    )
    smooth_R = np.clip(smooth_R, 0, 1)
    return (1 - smooth_R) * theta_R / config.factor + smooth_R * theta_R


def _temperature(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0
