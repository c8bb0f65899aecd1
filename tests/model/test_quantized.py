"""A quantized base is its dequantized weights, which are near its weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ComputeConfig, ModelConfig
from llama_jax.converters import weights
from llama_jax.core import tree
from llama_jax.model import llama, lora, quantized
from llama_jax.sharding import place
from llama_jax.text.tokenizer import load_tokenizer

MODEL = ModelConfig(
    layers=2, embed=32, mlp=48, heads=4, kv_heads=2, head_dim=8, vocab=50, context=64
)
COMPUTE = ComputeConfig(dtype="float32", attention_chunk=4, remat="none")
LORA = LoraConfig(r=3, targets=("*",), quantization="nf4")
# bitsandbytes, csrc/kernels.cu, dQuantizeNF4: the thresholds between codes 0, 1, ... 15.
THRESHOLDS = (
    *(-0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544),
    *(-0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767),
    *(0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683),
    *(0.5016634166240692, 0.6427869200706482, 0.8614784181118011),
)


def codes_of(parts):
    """The codes of an nf4 matrix, one to a number, as [I, O]."""
    both = np.asarray(parts["codes"])
    whole = np.concatenate([both & 15, both >> 4], axis=1)
    return whole.reshape(-1, whole.shape[-1])


def test_nf4_codes_are_cut_where_bitsandbytes_cuts_them():
    # One block of each column has its largest value, 1, in its first row.
    w = np.ones((64, 2 * len(THRESHOLDS)), np.float32)
    for code, threshold in enumerate(THRESHOLDS):
        w[1:, 2 * code], w[1:, 2 * code + 1] = threshold - 1e-6, threshold + 1e-6
    codes = codes_of(quantized.quantize(jnp.asarray(w), "nf4", False))
    assert (codes[0] == 15).all()
    for code in range(len(THRESHOLDS)):
        assert (codes[1:, 2 * code] == code).all(), code
        assert (codes[1:, 2 * code + 1] == code + 1).all(), code


def test_the_sixteen_values_of_nf4_are_kept_exactly():
    w_IO = 0.7 * np.resize(np.asarray(quantized.NF4, np.float32), (64, 1)).repeat(3, axis=1)
    parts = quantized.quantize(jnp.asarray(w_IO), "nf4", False)
    np.testing.assert_allclose(quantized.dequantize(parts, 64, jnp.float32), w_IO, rtol=1e-6)
    np.testing.assert_array_equal(codes_of(parts)[:, 0], np.resize(np.arange(16), 64))


def matrix(inputs=200, outputs=300):
    rng = np.random.default_rng(0)
    return rng.normal(0, rng.uniform(0.01, 1, (1, outputs)), (inputs, outputs)).astype(np.float32)


def by_formula(w_IO, quantization):
    """The same in NumPy, a block after the other."""
    out = np.zeros_like(w_IO)
    table = np.asarray(quantized.NF4)
    for start in range(0, len(w_IO), 64):
        for column in range(w_IO.shape[1]):
            block = w_IO[start : start + 64, column]
            scale = np.abs(block).max()
            if quantization == "nf4":
                nearest = np.abs(block[:, None] / scale - table).argmin(axis=1)
                out[start : start + 64, column] = scale * table[nearest]
            else:
                out[start : start + 64, column] = np.round(127 * block / scale) * scale / 127
    return out


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_values_are_those_of_the_formula(quantization):
    w_IO = matrix()
    parts = quantized.quantize(jnp.asarray(w_IO), quantization, False)
    got = quantized.dequantize(parts, len(w_IO), jnp.float32)
    np.testing.assert_allclose(got, by_formula(w_IO, quantization), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(("quantization", "step"), [("nf4", 0.3039 / 2), ("int8", 0.5 / 127)])
def test_no_weight_is_further_off_than_half_a_step_of_its_block(quantization, step, twice):
    w_IO = matrix()
    parts = quantized.quantize(jnp.asarray(w_IO), quantization, twice)
    got = np.asarray(quantized.dequantize(parts, len(w_IO), jnp.float32))
    padded = np.pad(np.abs(w_IO), ((0, 56), (0, 0))).reshape(-1, 64, 300)
    scale = np.repeat(padded.max(axis=1), 64, axis=0)[:200]
    # Scales in 8 bits are off by half a step of the largest of 256, and a code is at most 1.
    spread = np.abs(padded.max(axis=1) - padded.max(axis=1).mean()).max()
    bound = step * scale * 1.001 + (spread / 254 * 1.001 if twice else 0)
    assert (np.abs(got - w_IO) <= bound).all()


@pytest.mark.parametrize(
    ("quantization", "twice", "bits"),
    [("nf4", False, 4.5), ("nf4", True, 4.127), ("int8", False, 8.5), ("int8", True, 8.127)],
)
def test_a_weight_takes_so_many_bits(quantization, twice, bits):
    shape = jax.ShapeDtypeStruct((4096, 1024), jnp.float32)
    parts = jax.eval_shape(lambda w: quantized.quantize(w, quantization, twice), shape)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts))
    assert round(8 * size / shape.size, 3) == bits


def test_a_block_of_zeros_is_zeros():
    for twice in (False, True):
        parts = quantized.quantize(jnp.zeros((64, 8)), "nf4", twice)
        np.testing.assert_array_equal(quantized.dequantize(parts, 64, jnp.float32), 0.0)


def params_of(config):
    return jax.jit(lambda: llama.create(MODEL, COMPUTE, 0, config))()


def dequantized(config):
    """The parameters of the same model without quantization, of what it computes with."""
    plain = dataclasses.replace(config, quantization="none", double_quantization=True)

    def leaf(name, value):
        if not quantized.applies(config, name):
            return value
        trip = functools.partial(quantized.round_trip, config, name)
        return jax.jit(lambda value: jax.lax.map(trip, value))(value)

    return plain, tree.map_named(leaf, params_of(plain))


def loss_of(config, compute=COMPUTE):
    graph, _ = llama.abstract(MODEL, compute, lora=config)
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, MODEL.vocab)

    def loss(adapters, base):
        logits = llama.merge(graph, lora.join(base, adapters))(tokens)
        return -jax.nn.log_softmax(logits)[..., 3].mean()

    return loss


@pytest.mark.parametrize(
    ("quantization", "twice", "remat"),
    [("nf4", True, "full"), ("int8", False, "none")],
)
def test_a_quantized_model_is_that_of_its_dequantized_weights(quantization, twice, remat):
    config = dataclasses.replace(LORA, quantization=quantization, double_quantization=twice)
    plain, whole = dequantized(config)
    compute = dataclasses.replace(COMPUTE, remat=remat)
    adapters, base = lora.divide(params_of(config))
    adapters = jax.tree.map(lambda x: x + 0.1, adapters)
    got = jax.jit(jax.value_and_grad(loss_of(config, compute)))(adapters, base)
    plain_loss = jax.jit(jax.value_and_grad(loss_of(plain)))
    want = plain_loss(adapters, lora.divide(whole)[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
    unquantized = plain_loss(adapters, lora.divide(params_of(plain))[1])
    assert abs(got[0] - unquantized[0]) > 1e-6  # The weights are others.


def test_only_the_matrices_of_the_layers_are_quantized_and_stay_as_stored():
    compute = dataclasses.replace(COMPUTE, param_dtype="bfloat16")
    _, shapes = llama.abstract(MODEL, compute, lora=LORA)
    named = tree.named_leaves(shapes)
    kernels = {name.rpartition("/")[0] for name in named if name.endswith("/codes")}
    assert len(kernels) == 7 and all(name.startswith("layers/") for name in kernels)
    assert named["head/kernel"].dtype == jnp.bfloat16
    assert {str(named[f"{name}/codes"].dtype) for name in kernels} == {"uint8"}
    assert {str(named[f"{name}/scale_mean"].dtype) for name in kernels} == {"float32"}
    for name, leaf in named.items():
        assert len(place.param_dims(name)) == leaf.ndim, name


def test_one_layer_is_dequantized_at_a_time():
    """Temporaries grow with the number of layers by activations alone."""
    sizes = {}
    for quantization in ("none", "nf4"):
        for layers in (2, 10):
            model = dataclasses.replace(MODEL, layers=layers, embed=256, mlp=512)
            compute = dataclasses.replace(COMPUTE, dtype="bfloat16", remat="full")
            config = dataclasses.replace(LORA, targets=("attention/q",), quantization=quantization)
            graph, shapes = llama.abstract(model, compute, lora=config)
            adapters, base = lora.divide(shapes)
            tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)

            def loss(adapters, base, tokens, graph=graph):
                return llama.merge(graph, lora.join(base, adapters))(tokens).mean()

            compiled = jax.jit(jax.grad(loss)).lower(adapters, base, tokens).compile()
            sizes[quantization, layers] = compiled.memory_analysis().temp_size_in_bytes
    one_layer = 3 * 256 * 512 + 2 * 256 * 4 * 8 + 2 * 256 * 2 * 8  # Weights of its seven matrices.
    assert sizes["nf4", 10] - sizes["nf4", 2] < 2 * one_layer
    assert sizes["none", 10] - sizes["none", 2] > 8 * one_layer  # A copy in bfloat16.


def test_trained_weights_lose_little(shared):
    """Perplexity of a book: nf4 raises it by 9%, int8 by 0.3%; larger models lose less."""
    folder = shared / "weights" / "stories260K"
    found = weights.find(folder / "hf")
    book = (shared / "data/books/84-0.txt").read_text()[20_000:28_000]
    ids = load_tokenizer(folder / "tok512.model").encode(book)
    token_BT = jnp.asarray(np.resize(ids[: len(ids) // 128 * 128], (len(ids) // 128, 128)), "int32")
    graph, _ = llama.abstract(found.model, ComputeConfig(dtype="float32", attention="reference"))
    params = found.read("float32")

    @jax.jit
    def loss(params):
        log = jax.nn.log_softmax(llama.merge(graph, params)(token_BT)[:, :-1])
        return -jnp.take_along_axis(log, token_BT[:, 1:, None], axis=-1).mean()

    def raised(quantization):
        config = LoraConfig(r=1, quantization=quantization)
        trip = jax.jit(
            lambda name, layer: quantized.round_trip(config, name, layer), static_argnums=0
        )

        def leaf(name, value):
            if not quantized.applies(config, name):
                return value
            return jnp.stack([trip(name, layer) for layer in value])

        return float(jnp.exp(loss(tree.map_named(leaf, params)) - loss(params)))

    assert 1.0 < raised("int8") < 1.006
    assert 1.05 < raised("nf4") < 1.13
