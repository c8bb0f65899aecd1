"""Writes a checkpoint of parameters that are made one at a time, and forgotten once written.

Each is made twice: for its fingerprint, which the record holds, and for its bytes. What cannot be
made is so found before anything is written.
"""

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from llama_jax.checkpoint import layout
from llama_jax.checkpoint.fingerprint import fingerprints
from llama_jax.checkpoint.reader import PARAMS
from llama_jax.telemetry import progress

LeafOf = Callable[[str], Any]


def write(directory: Path, step: int, names: Sequence[str], leaf_of: LeafOf) -> None:
    """Writes the checkpoint of `step` with the parameters `names` and nothing else.

    Args:
        directory: Of the checkpoints; it holds none of `step`.
        step: The step.
        names: 'layers/attention/q/kernel', ...
        leaf_of: Gives a parameter by name, the same each time.

    Raises:
        OSError: The disk is too full.
    """
    record = _record(step, names, leaf_of)
    leaves = {f"{PARAMS}/{name}": _Leaf(functools.partial(leaf_of, name)) for name in names}
    items = {
        layout.STATE: ocp.args.PyTreeSave(layout.nested(leaves)),
        layout.META: ocp.args.JsonSave(record),
    }
    with progress.bar("Writing weights", len(names)) as show, _saver(show) as saver:
        saver.save(layout.step_path(directory.absolute(), step), args=ocp.args.Composite(**items))


def _record(step: int, names: Sequence[str], leaf_of: LeafOf) -> dict[str, Any]:
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    marks: dict[str, str] = {}
    for name in progress.counted(names, "Checking weights"):
        leaf = jax.numpy.asarray(leaf_of(name))
        shapes[f"{PARAMS}/{name}"] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        marks |= fingerprints({f"{PARAMS}/{name}": leaf})
    return layout.record(step, shapes, marks, {})


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Stands in the saved tree for an array that is made when its turn comes."""

    make: Callable[[], Any]


class _LeafHandler(ocp.type_handlers.NumpyHandler):
    """Makes, writes and forgets one leaf after the other, as Orbax writes a NumPy array."""

    def __init__(self, show: Callable[[int], None]):
        super().__init__(deepcopy_host_arrays=False)
        self._show = show

    async def serialize(self, values, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        for done, (leaf, info, arg) in enumerate(zip(values, infos, args, strict=True), 1):
            await self._serialize_one(leaf, info, arg)
            self._show(done)
        return []

    async def _serialize_one(self, leaf, info, arg):
        for written in await super().serialize([np.asarray(leaf.make())], [info], [arg]):
            await asyncio.to_thread(written.result)


def _saver(show: Callable[[int], None]) -> ocp.Checkpointer:
    registry = ocp.type_handlers.create_type_handler_registry(
        (_Leaf, _LeafHandler(show)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # Orbax warns of a registry without one.
    )
    handlers = {
        layout.STATE: ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        layout.META: ocp.JsonCheckpointHandler(),
    }
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
