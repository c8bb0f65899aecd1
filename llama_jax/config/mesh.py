"""The device mesh, and which of its axes splits which dimension."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1 and takes what is left.

    Axes are listed from the slowest links to the fastest: `data` alone should cross slices.
    """

    data: int = 1  # Copies of the model, each with rows of its own.
    fsdp: int = -1  # Rows; parameters, moments and gradients are split here too (ZeRO-3).
    context: int = 1  # Parts of each sequence; parameters are split here too.
    tensor: int = 1  # Heads, mlp and vocabulary.

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
    sequence: tuple[str, ...] = ("context",)  # T of activations
    embed: tuple[str, ...] = ("fsdp", "context")  # D of weights
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
        if self.heads != self.kv_heads:
            raise ValueError(
                f"heads is {self.heads} but kv_heads is {self.kv_heads}; query heads and the key "
                "heads they share must lie on the same devices, so both must be equal."
            )
        if strange := sorted(set(self.embed) - set(self.batch) - set(self.sequence)):
            raise ValueError(
                f"embed names {strange}, over which neither batch nor sequence is split: each "
                "device would compute the same gradients. Take it from embed, or add it to batch."
            )
