"""A mesh together with the table that splits dimensions over it."""

import dataclasses
import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llama_jax.config.mesh import ShardingRules
from llama_jax.sharding import rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where every array lives; dimensions are named as in ShardingRules, None is never split."""

    mesh: Mesh
    rules: ShardingRules

    def axes(self, dim: str) -> tuple[str, ...]:
        """Returns the mesh axes that split a dimension."""
        return getattr(self.rules, dim)

    @property
    def token_axes(self) -> tuple[str, ...]:
        """Returns the mesh axes over which tokens are spread."""
        return self.rules.batch + self.rules.sequence

    @property
    def device_kind(self) -> str:
        """Returns what the devices are, in the words of jax.Device."""
        return self.mesh.devices.flat[0].device_kind

    def ways(self, dim: str) -> int:
        """Returns into how many parts a dimension is split."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes(dim))

    def spec(self, *dims: str | None) -> PartitionSpec:
        """Returns the PartitionSpec of an array with these dimensions."""
        return rules.spec(self.rules, *dims)

    def sharding(self, *dims: str | None) -> NamedSharding:
        """Returns the sharding of an array with these dimensions; of none, whole everywhere."""
        return NamedSharding(self.mesh, self.spec(*dims))

    def whole_rows(self) -> "Layout":
        """Returns the layout that splits no sequence: devices along its axes do the same work."""
        kept = self.rules.batch
        embed = tuple(axis for axis in self.rules.embed if axis in kept)
        return Layout(self.mesh, dataclasses.replace(self.rules, sequence=(), embed=embed))


def constrain(layout: Layout | None, x: jax.Array, *dims: str | None) -> jax.Array:
    """Returns x, split by the layout as its dimensions say; without a layout as it is."""
    if layout is None:
        return x
    return jax.lax.with_sharding_constraint(x, layout.sharding(*dims))
