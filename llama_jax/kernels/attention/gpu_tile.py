"""What one warpgroup of a GPU kernel does with one tile, on a Hopper GPU or simulated.

P rows and C columns of a tile, H head size. JAX's simulator of GPUs has no tensor cores that read
registers and no register layouts, so kernels are written against `Hardware`, and tested with these
few operations as plain arrays. Copies, barriers and loops are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

_BEFORE_0_11 = hasattr(plgpu, "transform_ref")  # Names changed there.


def _nothing() -> None:
    pass


class Hardware:
    """Tensor cores and registers. One warpgroup has 128 threads, and a tile has 64 rows."""

    def product(self, a_ref: Any, b_ref: Any, after: Callable = _nothing) -> jax.Array:
        """Returns a b' [P, C] in float32; `after` runs while the tensor cores do."""

        def run(sum_ref):
            plgpu.wgmma(sum_ref, a_ref, _transposed(b_ref))
            after()
            return sum_ref[...]

        shape = a_ref.shape[0], b_ref.shape[0]
        return pl.run_scoped(run, plgpu.ACC(shape, jnp.float32))

    def add_product(
        self, sum_PH: jax.Array, a_PC: jax.Array, b_ref: Any, meanwhile: Callable = _nothing
    ) -> jax.Array:
        """Returns sum + a b; `meanwhile` runs while the tensor cores do."""

        def run(sum_ref):
            plgpu.wgmma(sum_ref, a_PC, b_ref)
            meanwhile()

        return pl.run_state(run)(plgpu.ACC.init(sum_PH))

    def add_product_beside(
        self, sum_PH: jax.Array, a_PC: jax.Array, b_ref: Any, c_ref: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Returns sum + a b, and c b' [P, C]: two products that wait once."""

        def run(refs):
            sum_ref, beside_ref = refs
            plgpu.wgmma(sum_ref, a_PC, b_ref)
            plgpu.wgmma(beside_ref, c_ref, _transposed(b_ref))

        zeros_PC = self.matrix(c_ref.shape[0], b_ref.shape[0])
        sums = plgpu.ACC.init(sum_PH), plgpu.ACC.init(zeros_PC)
        sum_PH, beside_PC = pl.run_state(run)(sums)
        return sum_PH, beside_PC

    def add_product_then(
        self, sum_CH: jax.Array, a_CP: jax.Array, b_ref: Any, between: Callable, parts: tuple
    ) -> tuple[jax.Array, jax.Array]:
        """Returns sum + a b, and the sum of c' d of all parts, which wait for `between`."""
        c_refs, d_refs = parts

        def run(refs):
            sum_ref, parts_ref = refs
            plgpu.wgmma(sum_ref, a_CP, b_ref)
            between()
            for part in range(c_refs.shape[0]):
                plgpu.wgmma(parts_ref, _transposed(c_refs.at[part]), d_refs.at[part])

        zeros = self.matrix(c_refs.shape[2], d_refs.shape[2])
        sum_CH, sum_parts = pl.run_state(run)((plgpu.ACC.init(sum_CH), plgpu.ACC.init(zeros)))
        return sum_CH, sum_parts

    def add_to(self, ref: Any, tile: Any) -> None:
        """Starts to add a tile of shared memory to main memory, where others add too."""
        plgpu.copy_smem_to_gmem(tile, ref, reduction_op="add")

    def matrix(self, P: int, C: int) -> jax.Array:
        """Returns zeros f32 [P, C]."""
        return plgpu.layout_cast(jnp.zeros((P, C), jnp.float32), plgpu.Layout.WGMMA)

    def vector(self, P: int, value: float) -> jax.Array:
        """Returns f32 [P], one number for each row."""
        filled_P = jnp.full((P,), value, jnp.float32)
        return plgpu.layout_cast(filled_P, plgpu.Layout.WGMMA.reduce(1))

    def rows(self, ref: Any) -> jax.Array:
        """Loads a number for each row [P]."""
        return _load(ref, plgpu.Layout.WGMMA.reduce(1))

    def columns(self, ref: Any) -> jax.Array:
        """Loads a number for each column [C]."""
        return _load(ref, plgpu.Layout.WGMMA.reduce(0))

    def computes(self) -> None:
        """Takes registers for a warpgroup that computes: 2 x 240 + 24 of 3 x 168."""
        plgpu.set_max_registers(240, action="increase")

    def fetches(self) -> None:
        """Leaves registers to those that compute."""
        plgpu.set_max_registers(24, action="decrease")


class _Simulated(Hardware):
    """The same on arrays."""

    def product(self, a_ref: Any, b_ref: Any, after: Callable = _nothing) -> jax.Array:
        product_PC = _dot(a_ref[...], b_ref[...].T)
        after()
        return product_PC

    def add_product(
        self, sum_PH: jax.Array, a_PC: jax.Array, b_ref: Any, meanwhile: Callable = _nothing
    ) -> jax.Array:
        meanwhile()
        return sum_PH + _dot(a_PC, b_ref[...])

    def add_product_beside(
        self, sum_PH: jax.Array, a_PC: jax.Array, b_ref: Any, c_ref: Any
    ) -> tuple[jax.Array, jax.Array]:
        return sum_PH + _dot(a_PC, b_ref[...]), _dot(c_ref[...], b_ref[...].T)

    def add_product_then(
        self, sum_CH: jax.Array, a_CP: jax.Array, b_ref: Any, between: Callable, parts: tuple
    ) -> tuple[jax.Array, jax.Array]:
        between()
        c_refs, d_refs = parts
        sum_parts = self.matrix(c_refs.shape[2], d_refs.shape[2])
        for part in range(c_refs.shape[0]):
            sum_parts += _dot(c_refs.at[part][...].T, d_refs.at[part][...])
        return sum_CH + _dot(a_CP, b_ref[...]), sum_parts

    def add_to(self, ref: Any, tile: Any) -> None:
        tile[...] = tile[...] + ref[...]  # The simulator runs one block after the other.
        plgpu.copy_smem_to_gmem(tile, ref)

    def matrix(self, P: int, C: int) -> jax.Array:
        return jnp.zeros((P, C), jnp.float32)

    def vector(self, P: int, value: float) -> jax.Array:
        return jnp.full((P,), value, jnp.float32)

    def rows(self, ref: Any) -> jax.Array:
        return ref[...]

    def columns(self, ref: Any) -> jax.Array:
        return ref[...]

    def computes(self) -> None:
        pass

    def fetches(self) -> None:
        pass


def operations(interpret: bool) -> Hardware:
    """Returns the operations of a GPU, or the simulated ones."""
    return _Simulated() if interpret else Hardware()


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a.astype(jnp.float32), b.astype(jnp.float32))


def _transposed(ref: Any) -> Any:
    if _BEFORE_0_11:
        return plgpu.transpose_ref(ref, (1, 0))
    return ref.transpose((1, 0))


def _load(ref: Any, layout: Any) -> jax.Array:
    index: Any = ((),) if _BEFORE_0_11 else ()
    return plgpu.load(ref, *index, layout=layout)
