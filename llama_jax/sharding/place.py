"""Which mesh axes split which array: the dimensions of every parameter, by name."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.config.mesh import ShardingRules
from llama_jax.core import tree
from llama_jax.sharding import rules

# The dimensions of each parameter; those under layers/ have one more in front, which is whole.
DIMS: dict[str, tuple[str | None, ...]] = {
    "embed/embedding": ("vocab", "embed"),
    "attention_norm/scale": (None,),
    "attention/q/kernel": ("embed", "heads", None),
    "attention/q/bias": ("heads", None),
    "attention/k/kernel": ("embed", "kv_heads", None),
    "attention/k/bias": ("kv_heads", None),
    "attention/v/kernel": ("embed", "kv_heads", None),
    "attention/v/bias": ("kv_heads", None),
    "attention/o/kernel": ("heads", None, "embed"),
    "attention/o/bias": (None,),
    "mlp_norm/scale": (None,),
    "mlp/gate/kernel": ("embed", "mlp"),
    "mlp/up/kernel": ("embed", "mlp"),
    "mlp/down/kernel": ("mlp", "embed"),
    "norm/scale": (None,),
    "head/kernel": ("embed", "vocab"),
}


def param_dims(name: str) -> tuple[str | None, ...]:
    """Returns the dimensions of a parameter, or of its copy in an optimizer ('0/mu/norm/scale')."""
    parts = name.split("/")
    for start in range(len(parts)):
        if parts[start] == "layers":
            return (None, *DIMS["/".join(parts[start + 1 :])])
        if "/".join(parts[start:]) in DIMS:
            return DIMS["/".join(parts[start:])]
    return ()


def shardings(mesh: Mesh, table: ShardingRules, shapes: Any) -> Any:
    """Returns the NamedSharding of each leaf of a tree of parameters, moments and scalars.

    Raises:
        ValueError: A dimension does not divide evenly over its mesh axes.
    """

    def one(name: str, leaf: Any) -> NamedSharding:
        spec = rules.spec(table, *param_dims(name)) if leaf.ndim else PartitionSpec()
        _refuse_uneven(name, leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return tree.map_named(one, shapes)


def batch_sharding(mesh: Mesh, table: ShardingRules) -> NamedSharding:
    """Returns the sharding of [B, T] arrays of a batch."""
    return NamedSharding(mesh, rules.spec(table, "batch", None))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def with_shardings(shapes: Any, placed: Any) -> Any:
    """Returns the tree of shapes, each with its sharding, as restoring and compiling want it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        placed,
    )


def _refuse_uneven(name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    for size, axes in zip(shape, spec, strict=False):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        ways = math.prod(mesh.shape[axis] for axis in axes)
        if size % ways:
            raise ValueError(
                f"{name} has shape {shape}; its dimension of {size} cannot be split over "
                f"{ways} devices ({', '.join(axes)}). Choose config.mesh axes that divide it."
            )
