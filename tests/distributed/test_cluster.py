import pytest

from llama_jax.distributed import cluster

OURS = {
    "LLAMA_JAX_COORDINATOR": "node1:1234",
    "LLAMA_JAX_PROCESSES": "4",
    "LLAMA_JAX_PROCESS_ID": "2",
}
JAXS = {"JAX_COORDINATOR_ADDRESS": "[::1]:99", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}


def slurm(**changes: str) -> dict[str, str]:
    """One task of two nodes with 8 GPUs each."""
    return {
        "SLURM_JOB_ID": "8200",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "1",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    } | changes


def per_gpu(visible: str) -> dict[str, str]:
    """One of eight tasks per node."""
    return slurm(
        SLURM_STEP_NUM_TASKS="16",
        SLURM_STEP_TASKS_PER_NODE="8(x2)",
        SLURM_PROCID="11",
        SLURM_LOCALID="3",
        CUDA_VISIBLE_DEVICES=visible,
    )


def place(environment: dict[str, str]) -> tuple | None:
    found = cluster.find(environment, 1.0)
    return found and (found.host, found.port, found.processes, found.process_id)


def test_a_process_is_alone_unless_told_otherwise():
    assert place({}) is None
    assert (
        place({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    )  # No srun.
    assert place(OURS | {"LLAMA_JAX_PROCESSES": "1", "LLAMA_JAX_PROCESS_ID": "0"}) is None
    assert place(slurm(SLURM_STEP_NUM_TASKS="1")) is None


def test_three_variables_say_it_all_and_come_before_slurm():
    assert place(OURS) == ("node1", 1234, 4, 2)
    assert place(JAXS) == ("::1", 99, 2, 0)
    assert place(slurm() | JAXS | OURS) == ("node1", 1234, 4, 2)


@pytest.mark.parametrize("names", [cluster.OURS, cluster.JAXS])
@pytest.mark.parametrize("left_out", range(3))
def test_half_of_it_is_refused_by_name(names, left_out):
    environment = {name: "1" for i, name in enumerate(names) if i != left_out}
    with pytest.raises(ValueError, match=rf"but not {names[left_out]}\. Several"):
        cluster.find(environment, 1.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"LLAMA_JAX_COORDINATOR": "node1"}, "LLAMA_JAX_COORDINATOR is 'node1'; it must be host:p"),
        ({"LLAMA_JAX_COORDINATOR": "node1:x"}, "must be host:port"),
        ({"LLAMA_JAX_COORDINATOR": "node1:70000"}, "must be host:port"),
        ({"LLAMA_JAX_PROCESSES": "four"}, "LLAMA_JAX_PROCESSES is 'four'; it must be a number"),
        ({"LLAMA_JAX_PROCESS_ID": "4"}, "LLAMA_JAX_PROCESS_ID is 4 .* ids run from 0 to 3"),
        ({"LLAMA_JAX_PROCESS_ID": "-1"}, "it must be a number"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, told):
    with pytest.raises(ValueError, match=told):
        cluster.find(OURS | changes, 1.0)


def test_a_step_of_srun_is_one_run():
    assert place(slurm()) == ("gpu07", 28_000 + 8200 % 4096, 2, 1)
    with pytest.raises(ValueError, match="SLURM_LOCALID is not set"):
        cluster.find({k: v for k, v in slurm().items() if k != "SLURM_LOCALID"}, 1.0)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        (slurm(), ()),  # One task per node: all of its GPUs.
        (slurm(CUDA_VISIBLE_DEVICES=""), ()),  # No GPUs.
        (per_gpu("0,1,2,3,4,5,6,7"), (3,)),  # All of the node are visible: its own.
        (per_gpu("5"), ()),  # Only its own is visible.
        (per_gpu(",".join(map(str, range(16)))), (6, 7)),
    ],
)
def test_a_task_takes_its_share_of_the_gpus(environment, devices):
    assert cluster.find(environment, 1.0).local_devices == devices


def test_gpus_that_tasks_cannot_share_are_refused():
    with pytest.raises(ValueError, match="8 tasks on a node where each sees 6 GPUs"):
        cluster.find(per_gpu("0,1,2,3,4,5"), 1.0)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"), ("a,b", "a"), ("a[1-3]", "a1"), ("a-b[007,009-012],c", "a-b007"),
        ("a[08-09]-ib,b", "a08-ib"), ("login1,gpu[1-2]", "login1"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_list(nodes, first):
    assert cluster.first_host(nodes) == first


def test_tasks_per_node():
    assert cluster.tasks_per_node("8") == [8]
    assert cluster.tasks_per_node("2(x3),1") == [2, 2, 2, 1]


class Tpu:
    """What JAX finds out on host 1 of a slice of four."""

    name = "gketpu"
    hosts = 4

    @classmethod
    def is_env_present(cls):
        return True

    @classmethod
    def get_process_count(cls):
        return cls.hosts

    @classmethod
    def get_process_id(cls):
        return 1

    @classmethod
    def get_coordinator_address(cls, timeout_secs, override_coordinator_port):
        return f"host0:{override_coordinator_port}"


def test_a_tpu_pod_is_what_jax_finds(monkeypatch):
    monkeypatch.setattr(cluster.clusters.ClusterEnv, "_cluster_types", [Tpu])
    assert place({}) is None  # JAX runs on CPUs here.
    monkeypatch.setattr(cluster.jax, "config", type("Config", (), {"jax_platforms": None}))
    assert place({}) == ("host0", cluster.PORT, 4, 1)
    monkeypatch.setattr(Tpu, "hosts", 1)
    assert place({}) is None


def test_jax_still_has_the_detections_that_are_used():
    known = {env.name for env in cluster.clusters.ClusterEnv._cluster_types}
    assert set(cluster.TPU) <= known
