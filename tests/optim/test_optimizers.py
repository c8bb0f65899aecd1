import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llama_jax.config.optim import OptimConfig
from llama_jax.optim import optimizers, schedules

PARAMS = {
    "norm": {"scale": jnp.linspace(0.5, 1.5, 6)},
    "head": {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.ones((4,))},
}


def steps_of(config: OptimConfig, grads: list) -> dict:
    optimizer = optimizers.adamw(config, steps=len(grads))
    params, state = PARAMS, optimizer.init(PARAMS)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def grads_of(count: int) -> list:
    rng = np.random.default_rng(0)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)
        for _ in range(count)
    ]


@pytest.mark.torch
@pytest.mark.parametrize("no_decay", [("scale", "bias"), ("bias",)])
def test_updates_equal_torch_adamw_with_clipping_and_decay_groups(no_decay):
    torch = pytest.importorskip("torch")
    config = OptimConfig(
        learning_rate=1e-2,
        schedule="constant",
        weight_decay=0.1,
        eps=1e-6,
        clip=1.0,
        no_decay=no_decay,
    )
    grads = grads_of(5)
    theirs = {
        name: torch.nn.Parameter(torch.tensor(np.asarray(value)))
        for name, value in {
            "norm/scale": PARAMS["norm"]["scale"],
            "head/kernel": PARAMS["head"]["kernel"],
            "head/bias": PARAMS["head"]["bias"],
        }.items()
    }
    groups = [
        {"params": [theirs["head/kernel"]], "weight_decay": 0.1},
        {"params": [theirs["norm/scale"]], "weight_decay": 0.0 if "scale" in no_decay else 0.1},
        {"params": [theirs["head/bias"]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-6)
    for grad in grads:
        for name, parameter in theirs.items():
            outer, inner = name.split("/")
            parameter.grad = torch.tensor(np.asarray(grad[outer][inner]))
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        adamw.step()
    ours = steps_of(config, grads)
    for name, parameter in theirs.items():
        outer, inner = name.split("/")
        want = parameter.detach().numpy()
        np.testing.assert_allclose(ours[outer][inner], want, rtol=1e-5, atol=1e-6)


def test_decay_acts_on_matrices_alone():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    config = OptimConfig(learning_rate=0.1, schedule="constant", weight_decay=0.5)
    after = steps_of(config, [zero])
    np.testing.assert_allclose(after["head"]["kernel"], 0.95 * PARAMS["head"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(after["norm"]["scale"], PARAMS["norm"]["scale"])
    np.testing.assert_array_equal(after["head"]["bias"], PARAMS["head"]["bias"])


LAYERED = {
    "embed": {"embedding": jnp.ones((5, 4))},
    "head": {"kernel": jnp.ones((4, 5))},
    "layers": {"mlp": {"kernel": jnp.ones((4, 4, 6))}, "norm": {"scale": jnp.ones((4, 4))}},
    "norm": {"scale": jnp.ones((4,))},
}


@pytest.mark.torch
@pytest.mark.parametrize("no_decay", [("scale",), ("bias",)])
@pytest.mark.parametrize("size", [0.01, 0.3, 100.0])
def test_every_stage_and_group_is_clipped_as_torch_clips_it_alone(no_decay, size):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    grads = jax.tree.map(
        lambda p: jnp.asarray(size * rng.normal(size=p.shape), jnp.float32), LAYERED
    )
    config = OptimConfig(clip=1.0, clip_stages=2, no_decay=no_decay)
    clip = optimizers._clip(config)
    got, _ = jax.jit(clip.update)(grads, clip.init(LAYERED))

    # What each process of a pipeline would hold, layer by layer.
    first, last = slice(0, 2), slice(2, 4)
    kernel, scale = grads["layers"]["mlp"]["kernel"], grads["layers"]["norm"]["scale"]
    stages = [
        ([grads["embed"]["embedding"], kernel[first]], [scale[first]]),
        ([grads["head"]["kernel"], kernel[last]], [scale[last], grads["norm"]["scale"]]),
    ]
    if no_decay == ("bias",):  # Every weight is decayed: one group.
        stages = [([*matrices, *scales], []) for matrices, scales in stages]
    clipped = []
    for group in (group for stage in stages for group in stage if group):
        parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in group]
        for parameter, gradient in zip(parameters, group, strict=True):
            parameter.grad = torch.tensor(np.asarray(gradient))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        clipped += [parameter.grad.numpy() for parameter in parameters]
    kernel, scale = got["layers"]["mlp"]["kernel"], got["layers"]["norm"]["scale"]
    want = [
        got["embed"]["embedding"], kernel[first], scale[first],
        got["head"]["kernel"], kernel[last], scale[last], got["norm"]["scale"],
    ]  # fmt: skip
    for ours, theirs in zip(want, clipped, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_stages_clip_less_than_all_together():
    ones = jax.tree.map(jnp.ones_like, LAYERED)

    def norm(stages: int) -> float:
        clip = optimizers._clip(OptimConfig(clip=1.0, clip_stages=stages, no_decay=("bias",)))
        return float(optax.tree.norm(clip.update(ones, clip.init(ones))[0]))

    np.testing.assert_allclose([norm(0), norm(1), norm(4)], [1, 1, 2], rtol=1e-6)


def test_infinite_clip_never_clips():
    # Adam's first step is the sign of the gradient whatever its size, so look at the second.
    grads = [jax.tree.map(lambda g, s=scale: s * g, grads_of(1)[0]) for scale in (1.0, 1000.0)]
    base = {"learning_rate": 1e-2, "schedule": "constant"}
    clipped = steps_of(OptimConfig(clip=1.0, **base), grads)["head"]["kernel"]
    free = steps_of(OptimConfig(clip=float("inf"), **base), grads)["head"]["kernel"]
    assert jnp.max(jnp.abs(clipped - free)) > 1e-4


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (OptimConfig(schedule="constant"), {0: 3e-4, 50: 3e-4, 100: 3e-4}),
        (OptimConfig(schedule="linear"), {0: 3e-4, 50: 1.65e-4, 100: 3e-5}),
        (OptimConfig(schedule="cosine"), {0: 3e-4, 50: 1.65e-4, 100: 3e-5}),
        (
            OptimConfig(schedule="linear", warmup_steps=20, final_fraction=0.0),
            {0: 0, 10: 1.5e-4, 20: 3e-4, 60: 1.5e-4, 100: 0},
        ),
        (
            # Chen et al. 2023: 20 steps of warm-up from 10% of 2e-5, then constant.
            OptimConfig(learning_rate=2e-5, schedule="constant", warmup_steps=20, warmup_start=0.1),
            {0: 2e-6, 10: 1.1e-5, 20: 2e-5, 99: 2e-5},
        ),
    ],
    ids=lambda value: f"{value.schedule}-{value.warmup_steps}" if hasattr(value, "eps") else "",
)
def test_learning_rate_by_update(config, values):
    schedule = schedules.learning_rate(config, 100)
    for update, want in values.items():
        np.testing.assert_allclose(schedule(update), want, rtol=1e-5, atol=1e-12)
