"""Is this process alone, or one of several? What the environment says about it.

    set by                            variables
    a launcher of launch/, or a hand  LLAMA_JAX_COORDINATOR, LLAMA_JAX_PROCESSES,
                                      LLAMA_JAX_PROCESS_ID; or JAX's names: JAX_NUM_PROCESSES,
                                      JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID
    srun                              SLURM_STEP_*, SLURM_PROCID, SLURM_LOCALID, ...
    Cloud TPU (pod slices, GKE)       what JAX's own detection reads there

The first that applies decides.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
from jax._src import clusters  # JAX has no public name for what initialize() detects.

PORT = 8476
OURS = ("LLAMA_JAX_COORDINATOR", "LLAMA_JAX_PROCESSES", "LLAMA_JAX_PROCESS_ID")
JAXS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = (
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_JOB_ID",
)
TPU = ("gcetpu", "gketpu")  # Names of JAX's detections.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The place of this process among the processes of one run."""

    host: str  # Of process 0, where all meet.
    port: int
    processes: int
    process_id: int
    local_devices: tuple[int, ...] = ()  # GPUs of this process among the visible; (): all.
    told_by: str  # The variables to look at if this is wrong.


def find(environment: Mapping[str, str], start_seconds: float) -> Cluster | None:
    """Returns what the environment says; None for a process alone.

    Args:
        environment: os.environ
        start_seconds: How long a name of a TPU host may take to resolve.

    Raises:
        ValueError: It says half of it, or things that cannot be.
    """
    for names in (OURS, JAXS):
        if any(environment.get(name) for name in names):
            return _alone_or(_explicit(environment, names))
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return _slurm(environment)
    return _alone_or(_tpu(start_seconds))


def _alone_or(cluster: Cluster | None) -> Cluster | None:
    return None if cluster is None or cluster.processes == 1 else cluster


def _explicit(environment: Mapping[str, str], names: tuple[str, str, str]) -> Cluster:
    if missing := [name for name in names if not environment.get(name)]:
        have = [name for name in names if name not in missing]
        raise ValueError(
            f"the environment sets {' and '.join(have)} but not {' and '.join(missing)}. Several "
            "processes need all three (host:port of process 0, their number, the id of this one); "
            "a process alone needs none."
        )
    host, port = _address(names[0], environment[names[0]])
    count, process_id = (_number(name, environment[name]) for name in names[1:])
    if not 0 <= process_id < count:
        raise ValueError(
            f"{names[2]} is {process_id} and {names[1]} is {count}; ids run from 0 to {count - 1}."
        )
    return Cluster(
        host=host, port=port, processes=count, process_id=process_id, told_by=", ".join(names)
    )


def _address(name: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(
            f"{name} is {text!r}; it must be host:port of process 0, e.g. node1:{PORT}."
        )
    return host.strip("[]"), int(port)


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} is {text!r}; it must be a number.")
    return int(text)


def _slurm(environment: Mapping[str, str]) -> Cluster:
    if missing := [name for name in SLURM if name not in environment]:
        raise ValueError(
            f"this looks like a step of srun with several tasks, but {', '.join(missing)} is not "
            "set. Start the command with srun, which sets it."
        )
    return Cluster(
        host=first_host(environment["SLURM_STEP_NODELIST"]),
        # Jobs that share a node need different ports: 4,096 below the ephemeral ones of Linux.
        port=28_000 + int(environment["SLURM_JOB_ID"]) % 4096,
        processes=int(environment["SLURM_STEP_NUM_TASKS"]),
        process_id=int(environment["SLURM_PROCID"]),
        local_devices=_slurm_gpus(environment),
        told_by="SLURM_*, which srun sets",
    )


def _slurm_gpus(environment: Mapping[str, str]) -> tuple[int, ...]:
    """Returns this task's GPUs: all for one task per node, else its own.

    srun shows a task its own GPU only (--gpus-per-task) or all of the node (--gpus-per-node).
    """
    tasks = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    here = tasks[int(environment["SLURM_NODEID"])]
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if here == 1 or len(visible) <= 1:
        return ()
    local_id = int(environment["SLURM_LOCALID"])
    if len(visible) % here:
        raise ValueError(
            f"srun started {here} tasks on a node where each sees {len(visible)} GPUs "
            f"(CUDA_VISIBLE_DEVICES={','.join(visible)}), which {here} cannot share evenly. Use "
            "--ntasks-per-node=1, or as many tasks per node as GPUs."
        )
    share = len(visible) // here
    return tuple(range(local_id * share, (local_id + 1) * share))


def first_host(nodelist: str) -> str:
    """Returns the first host of a list as SLURM writes it: 'a[07-09,12],b' -> 'a07'."""
    first = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\]([^\[,]*))?", nodelist)
    assert first
    return "".join(part or "" for part in first.groups())


def tasks_per_node(text: str) -> list[int]:
    """Returns the tasks of each node as SLURM writes them: '8(x2),4' -> [8, 8, 4]."""
    counts = []
    for count, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts


def _tpu(start_seconds: float) -> Cluster | None:
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if "tpu" not in (platforms or "tpu").split(","):
        return None
    found = [env for env in clusters.ClusterEnv._cluster_types if env.name in TPU]
    for env in found:
        if not env.is_env_present():
            continue
        count = env.get_process_count()
        if count == 1:
            return None
        address = env.get_coordinator_address(int(start_seconds), str(PORT))
        host, port = _address("the address that JAX found", address)
        return Cluster(
            host=host,
            port=port,
            processes=count,
            process_id=env.get_process_id(),
            told_by="the TPU's metadata (TPU_WORKER_HOSTNAMES, TPU_WORKER_ID, MEGASCALE_*)",
        )
    return None
