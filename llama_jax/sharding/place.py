"""Which mesh axes split which array: the dimensions of every parameter, by name."""

from typing import Any

import jax
from jax.sharding import NamedSharding

from llama_jax.core import tree
from llama_jax.sharding.layout import Layout

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
# How many of a matrix's dimensions are summed over: its inputs.
INPUTS = {name: 2 if name == "attention/o/kernel" else 1 for name in DIMS if "/kernel" in name}
INPUTS |= {"embed/embedding": 1}
for _name, _inputs in INPUTS.items():
    _folder = _name.rpartition("/")[0]
    # A low-rank adapter is split as its base is: a along inputs, b along outputs.
    DIMS[f"{_folder}/lora/a"] = (*DIMS[_name][:_inputs], None)
    DIMS[f"{_folder}/lora/b"] = (None, *DIMS[_name][_inputs:])
    # A quantized matrix is whole on every device.
    DIMS |= {f"{_name}/codes": (None, None, None), f"{_name}/scale": (None, None)}
    DIMS |= {f"{_name}/scale_codes": (None, None), f"{_name}/scale_spread": (None, None)}
    DIMS[f"{_name}/scale_mean"] = ()


def param_dims(name: str) -> tuple[str | None, ...]:
    """Returns the dimensions of a parameter, or of its copy in an optimizer ('0/mu/norm/scale')."""
    parts = name.split("/")
    for start in range(len(parts)):
        if parts[start] == "layers":
            return (None, *DIMS["/".join(parts[start + 1 :])])
        if "/".join(parts[start:]) in DIMS:
            return DIMS["/".join(parts[start:])]
    return ()


def kernel_dims(layout: Layout, name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """Returns the dimensions by which a parameter of this shape is split.

    Key heads are whole on every device where a mesh has more parts for them than there are.
    """
    return tuple(_split(layout, *pair) for pair in zip(param_dims(name), shape, strict=True))


def shardings(layout: Layout, shapes: Any) -> Any:
    """Returns the NamedSharding of each leaf of a tree of parameters, moments and scalars.

    Raises:
        ValueError: A dimension does not divide evenly over its mesh axes.
    """

    def one(name: str, leaf: Any) -> NamedSharding:
        dims = kernel_dims(layout, name, leaf.shape) if leaf.ndim else ()
        _refuse_uneven(name, leaf.shape, dims, layout)
        return layout.sharding(*dims)

    return tree.map_named(one, shapes)


def with_shardings(shapes: Any, placed: Any) -> Any:
    """Returns the tree of shapes, each with its sharding, as restoring and compiling want it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        placed,
    )


def _split(layout: Layout, dim: str | None, size: int) -> str | None:
    if dim == "kv_heads" and layout.ways(dim) % size == 0 and layout.ways(dim) > size:
        return None
    return dim


def _refuse_uneven(
    name: str, shape: tuple[int, ...], dims: tuple[str | None, ...], layout: Layout
) -> None:
    for size, dim in zip(shape, dims, strict=True):
        if dim is not None and size % layout.ways(dim):
            raise ValueError(
                f"{name} has shape {shape}; its dimension of {size} cannot be split over "
                f"{layout.ways(dim)} devices ({', '.join(layout.axes(dim))}). Choose config.mesh "
                "axes that divide it."
            )
