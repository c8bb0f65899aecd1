"""The device mesh, and which of its axes splits which dimension."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1 and takes what is left."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise ValueError(f"{axis} is {size}; it must be a number of devices, or -1.")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"more than one axis is -1 ({sizes}); only one can take what is left.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardingRules:
    """Mesh axes that split each dimension; an empty tuple keeps it whole on every device.

    This table is the whole sharding of the project: no other file names a mesh axis.
    """

    batch: tuple[str, ...] = ("data", "fsdp")  # B of activations
    embed: tuple[str, ...] = ("fsdp",)  # D of weights
    heads: tuple[str, ...] = ("tensor",)  # N
    kv_heads: tuple[str, ...] = ("tensor",)  # K
    mlp: tuple[str, ...] = ("tensor",)  # F
    vocab: tuple[str, ...] = ("tensor",)  # V

    def __post_init__(self):
        axes = tuple(field.name for field in dataclasses.fields(MeshConfig))
        for dim, names in dataclasses.asdict(self).items():
            for name in names:
                if name not in axes:
                    raise ValueError(f"{dim} names the mesh axis {name!r}; the axes are {axes}.")
