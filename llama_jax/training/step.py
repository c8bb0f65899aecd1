"""One optimizer step: sum gradients over micro-batches, update, or skip it whole.

Dimensions: A micro-batches, B rows, T tokens.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from llama_jax.config.train import TrainConfig
from llama_jax.data.batch import Batch, content_hash
from llama_jax.model import lora
from llama_jax.optim import schedules
from llama_jax.sharding import place
from llama_jax.sharding.layout import Layout
from llama_jax.training import loss_scale, pretrain
from llama_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    config: TrainConfig,
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    layout: Layout,
) -> Step:
    """Returns the function (state, batch) -> (state, metrics) of one step, ready for jit."""
    schedule = schedules.learning_rate(config.optim, config.steps)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grads, sums = gradients(config, graph, layout, state, batch)
        loss = (sums["loss"] - sums["z_loss"]) / sums["weight"]
        grad_norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(sums["loss"] / sums["weight"]) & jnp.isfinite(grad_norm)
        metrics = {
            "loss": loss,
            "accuracy": sums["correct"] / sums["weight"],
            "weight": sums["weight"],
            "learning_rate": schedule(state.updates),
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(state.params),
            "skipped": 1 - is_finite.astype(jnp.int32),
            "batch_hash": content_hash(batch),
        }
        if state.loss_scale is not None:
            metrics["loss_scale"] = state.loss_scale.scale
            scale = loss_scale.after(config.loss_scale, state.loss_scale, is_finite)
            state = dataclasses.replace(state, loss_scale=scale)
        state = _update(optimizer, state, grads, is_finite)
        return state, metrics | {"skipped_in_a_row": state.skipped_in_a_row}

    return step


def compile_step(
    config: TrainConfig,
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    layout: Layout,
) -> Step:
    """Returns the compiled step for states like `state`, which it overwrites, and for batches.

    Compiled ahead of the first call, so that compilation is neither timed nor watched as a step.
    """
    return lower_step(config, graph, optimizer, state, layout).compile()


def lower_step(
    config: TrainConfig,
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    layout: Layout,
) -> jax.stages.Lowered:
    """Returns the step before its compilation, for the devices of the layout."""
    shape = (config.data.batch_size, config.data.sequence_length)
    rows = layout.sharding("batch", "sequence")
    ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
    weight = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)
    batch = Batch(ids, ids, ids, ids, weight)  # type: ignore[arg-type]
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(
        make_step(config, graph, optimizer, layout),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    return step.lower(state, batch)


def gradients(
    config: TrainConfig, graph: nnx.GraphDef, layout: Layout, state: TrainState, batch: Batch
):
    """Returns the gradient of the mean loss over all target tokens, and the sums behind it.

    With config.loss.reduction "sum_of_rows" it is that of the sum of the rows' means. Of what is
    trained: a base that is not has no gradients.
    """
    key = None
    if config.model.residual_dropout or config.lora.dropout:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

    def loss(params, rows: Batch, key):
        return pretrain.loss(graph, config.loss, lora.join(state.base, params), rows, key)

    loss_fn = jax.value_and_grad(loss, has_aux=True)

    def micro(params, rows: Batch, index):
        micro_key = None if key is None else jax.random.fold_in(key, index)
        (loss_sum, sums), grads = loss_fn(params, rows, micro_key)
        # Split like their parameters at once: no device holds the gradients of a whole layer.
        grads = jax.lax.with_sharding_constraint(grads, place.shardings(layout, grads))
        return grads, sums | {"loss": loss_sum}

    factor = None
    if state.loss_scale is not None:
        batch, factor = loss_scale.scaled(state.loss_scale, batch)
    if config.accumulate == 1:
        grads, sums = micro(state.params, batch, 0)
    else:
        grads, sums = _accumulate(config, micro, state.params, batch)
    counted = config.data.batch_size if config.loss.reduction == "sum_of_rows" else 1
    weight = sums["weight"] / counted
    grads = jax.tree.map(lambda g: g / weight.astype(g.dtype), grads)
    return grads, sums if factor is None else jax.tree.map(lambda s: s / factor, sums)


def _accumulate(config: TrainConfig, micro: Callable, params, batch: Batch):
    """Returns the sums over micro-batches of `micro`; one micro-batch is in memory at a time."""
    dtype = jnp.dtype(config.accumulate_dtype)

    def split(x_BT: jax.Array) -> jax.Array:
        # Micro-batch a takes rows a, a + A, ...: each device splits the rows that it holds.
        return x_BT.reshape(-1, config.accumulate, x_BT.shape[1]).swapaxes(0, 1)

    def add(total, item):
        grads, sums = micro(params, *item)
        # Without it XLA for TPUs (libtpu 0.0.42 and 0.0.48) fails in
        # while_loop_all_reduce_code_motion, which would move the sums over devices out of the loop.
        grads = jax.lax.optimization_barrier(grads)
        new = (jax.tree.map(lambda g: g.astype(dtype), grads), sums)
        return jax.tree.map(jnp.add, total, new), None

    rows, index_A = jax.tree.map(split, batch), jnp.arange(config.accumulate)
    first = jax.tree.map(lambda x: x[0], (rows, index_A))
    shapes = jax.eval_shape(lambda: micro(params, *first))
    zeros = (
        jax.tree.map(lambda g: jnp.zeros(g.shape, dtype), shapes[0]),
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1]),
    )
    (grads, sums), _ = jax.lax.scan(add, zeros, (rows, index_A))
    return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params), sums


def _update(optimizer, state: TrainState, grads, is_finite: jax.Array) -> TrainState:
    """Returns the state after the update; parameters, moments and schedule stay if not finite."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    with jax.numpy_dtype_promotion("standard"):  # bfloat16 parameters are added to in float32
        params = optax.apply_updates(state.params, updates)
    params, opt_state, count = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old),
        (params, opt_state, state.updates + 1),
        (state.params, state.opt_state, state.updates),
    )
    return dataclasses.replace(
        state,
        step=state.step + 1,
        updates=count,
        skipped_in_a_row=jnp.where(is_finite, 0, state.skipped_in_a_row + 1),
        params=params,
        opt_state=opt_state,
    )
