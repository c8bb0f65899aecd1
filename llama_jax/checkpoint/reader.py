"""Reading a checkpoint: compare with what is asked for, read, compare fingerprints."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from llama_jax.checkpoint import layout
from llama_jax.checkpoint.fingerprint import fingerprints
from llama_jax.core import tree
from llama_jax.core.errors import DataError
from llama_jax.core.tree import Tree
from llama_jax.distributed.processes import Alone, Processes

T = TypeVar("T")
PARAMS = "params"
SHOWN = 8  # Differences listed in full; more are counted.


def read_meta(directory: Path, step: int | None = None) -> dict[str, Any]:
    """Returns what was saved beside the arrays of `step` (None: the newest), 'step' included.

    Raises:
        ValueError: There is no such checkpoint.
        DataError: Its record is damaged.
    """
    directory = Path(directory)
    return layout.read_record(directory, choose(directory, step))


def restore_params(
    directory: Path, abstract_params: Tree, step: int | None = None, verify: bool = True
) -> tuple[Tree, dict[str, Any]]:
    """Returns (params, meta) of `step` (None: the newest); optimizer state is not read.

    `abstract_params` holds jax.ShapeDtypeStruct; one without sharding goes to the first device.

    Raises:
        ValueError: There is no such checkpoint, or its params have other names, shapes or dtypes.
        DataError: It is damaged.
    """
    wanted = {PARAMS: abstract_params}
    state, meta = restore_step(directory, choose(directory, step), wanted, verify, partial=True)
    return state[PARAMS], meta


def restore_param(
    directory: Path, name: str, abstract: jax.ShapeDtypeStruct, step: int | None = None
) -> jax.Array:
    """Returns one array of the params of `step` (None: the newest), verified; reads no other.

    Raises:
        ValueError: There is no such checkpoint or array, or it has another shape or dtype.
        DataError: It is damaged.
    """
    directory = Path(directory).absolute()
    chosen = choose(directory, step)
    path, full_name = layout.step_path(directory, chosen), f"{PARAMS}/{name}"
    arrays = layout.read_record(directory, chosen)["arrays"]
    saved = {full_name: arrays[full_name]} if full_name in arrays else {}
    _compare(path, saved, {full_name: abstract})
    named = _read_arrays(path, {full_name: abstract}, partial=True)
    _verify(path, saved, named, verify=True)
    return named[full_name]


def restore_step(
    directory: Path,
    step: int,
    abstract: Tree,
    verify: bool,
    partial: bool = False,
    processes: Processes | None = None,
) -> tuple[Tree, dict[str, Any]]:
    """Returns (tree like `abstract`, meta) of a committed step; `partial` ignores other subtrees.

    With several processes each reads what its devices hold, and damage that one meets is raised in
    all of them.

    Raises:
        ValueError: The saved arrays have other names, shapes or dtypes than `abstract`.
        DataError: Arrays or record are damaged.
    """
    directory = Path(directory).absolute()  # Orbax takes no other.
    path = layout.step_path(directory, step)
    wanted = tree.named_leaves(abstract)

    def read() -> tuple[dict[str, Any], dict[str, dict], dict[str, jax.Array]]:
        meta = layout.read_record(directory, step)
        saved = meta["arrays"]
        if partial:
            saved = {name: array for name, array in saved.items() if name.split("/")[0] in abstract}
        _compare(path, saved, wanted)
        return meta, saved, _read_arrays(path, wanted, partial)

    meta, saved, named = _in_all(processes or Alone(), f"reading {step}", read)
    _verify(path, saved, named, verify)
    leaves = [named[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves), meta


def choose(directory: Path, step: int | None) -> int:
    """Returns `step`, or the newest step for None.

    Raises:
        ValueError: It does not exist; the message lists the steps that do.
    """
    steps = layout.steps(directory)
    if not steps:
        raise ValueError(f"{directory} holds no checkpoint.")
    if step is not None and step not in steps:
        listed = ", ".join(map(str, steps))
        raise ValueError(f"{directory} holds no checkpoint of step {step}; it holds {listed}.")
    return steps[-1] if step is None else step


def _in_all(processes: Processes, what: str, read: Callable[[], T]) -> T:
    """Returns read(); DataError in one process is raised in all, so that all do the same next."""
    result, damage = None, None
    try:
        result = read()
    except DataError as error:
        damage = str(error)
    everywhere = [text for text in processes.exchange(what, damage) if text is not None]
    if everywhere:
        raise DataError(everywhere[0])
    return result  # type: ignore[return-value]


def _compare(path: Path, saved: dict[str, dict], wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
    differences = [f"{name} is missing in the checkpoint" for name in wanted if name not in saved]
    differences += [f"{name} is only in the checkpoint" for name in saved if name not in wanted]
    for name in saved.keys() & wanted.keys():
        kind = f"{saved[name]['dtype']}{saved[name]['shape']}"
        asked = f"{wanted[name].dtype}{list(wanted[name].shape)}"
        if kind != asked:
            differences.append(f"{name} is {kind} in the checkpoint but {asked} is asked for")
    if differences:
        lines = sorted(differences)[:SHOWN]
        more = f" And {len(differences) - SHOWN} more." if len(differences) > SHOWN else ""
        raise ValueError(
            f"{path} was saved with other settings: {'; '.join(lines)}.{more} Use the settings "
            "beside the checkpoint, or another workdir. Nothing is cast or left out silently."
        )


def _read_arrays(path: Path, wanted: dict[str, Any], partial: bool) -> dict[str, jax.Array]:
    item = layout.nested({name: _placed(leaf) for name, leaf in wanted.items()})
    arguments = ocp.args.PyTreeRestore(
        item=item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=partial,
    )
    handler = ocp.CompositeCheckpointHandler(**{layout.STATE: ocp.PyTreeCheckpointHandler()})
    try:
        # allow: Orbax copies between host and device implicitly.
        with contextlib.closing(handler), jax.transfer_guard("allow"):
            # Not through ocp.Checkpointer: where one process cannot read, the others would wait
            # for it there.
            restored = handler.restore(path, args=ocp.args.Composite(**{layout.STATE: arguments}))
            return tree.named_leaves(jax.block_until_ready(restored[layout.STATE]))
    # Damaged bytes surface as whatever the layer that met them raises: KeyError, TypeError,
    # JSONDecodeError, ValueError, FileNotFoundError, XlaRuntimeError. All mean the same here.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path}: the arrays cannot be read ({type(error).__name__}: {reason})."
        ) from error


def _placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _verify(path: Path, saved: dict[str, dict], named: dict[str, jax.Array], verify: bool) -> None:
    """Raises DataError unless what was read is what was saved."""
    found = fingerprints(named) if verify else {}
    bad = [
        name
        for name, array in saved.items()
        if list(named[name].shape) != array["shape"]
        or str(named[name].dtype) != array["dtype"]
        or (verify and found[name] != array["fingerprint"])
    ]
    if bad:
        shown = ", ".join(bad[:SHOWN]) + (", ..." if len(bad) > SHOWN else "")
        raise DataError(
            f"{path} is damaged: {len(bad)} of {len(saved)} arrays differ from their fingerprint "
            f"({shown})."
        )
