"""The files of launch/ start real processes here; what they would start elsewhere is checked."""

import os
import pathlib
import re
import signal
import string
import subprocess
import sys
import time

import launched
import pytest
import slurm
import yaml

LAUNCH = launched.ROOT / "launch"
SCRIPTS = ["slurm/train.sbatch", "tpu_vm/create.sh", "tpu_vm/run.sh", "env/gpu.env", "env/tpu.env"]
SCRIPTS += [f"finetune_llama2_7b_32k_{name}.sh" for name in ("mqa", "booksum")]
SHELLCHECK = pathlib.Path(sys.executable).with_name("shellcheck")  # Of the test extra.
PYTHON = [sys.executable, "-S", "-E", "-c"]
WHO = "import os; i, n = (os.environ['LLAMA_JAX_' + k] for k in ('PROCESS_ID', 'PROCESSES'));"


def launch(script: str, *options: str, processes: int = 2) -> subprocess.Popen:
    command = [
        *launched.LAUNCHER,
        f"--processes={processes}",
        *options,
        "--",
        *PYTHON,
        WHO + script,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(launcher: subprocess.Popen) -> tuple[int, str]:
    try:
        text = launcher.communicate(timeout=30)[0]
    finally:
        launcher.kill()
    return launcher.returncode, text


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_process_is_told_its_place_and_prints_with_its_number():
    script = "print(i, n, os.environ['LLAMA_JAX_COORDINATOR'], os.environ['CUDA_VISIBLE_DEVICES'])"
    code, text = finish(launch(script, "--gpus=2", processes=3))
    found = sorted(re.findall(r"^\[(\d)\] (\d) 3 127\.0\.0\.1:(\d+) (.*)$", text, re.M))
    assert [(a, b, gpus) for a, b, _, gpus in found] == [
        ("0", "0", "0,1"), ("1", "1", "2,3"), ("2", "2", "4,5")
    ]  # fmt: skip
    assert len({port for _, _, port, _ in found}) == 1
    assert code == 0


@pytest.mark.parametrize(
    ("codes", "whole", "starts"),
    [
        ((0, 0), 0, 1), ((75, 75), 75, 3), ((74, 0), 74, 3), ((65, 75), 65, 1), ((75, 70), 70, 1),
        ((75, -9), 75, 3), ((-11, 0), 75, 3), ((78, -9), 78, 1),
    ],
)  # fmt: skip
def test_only_74_75_and_kills_start_again(codes, whole, starts):
    script = f"print('start', flush=True); c = {codes}[int(i)];"
    script += "os.kill(os.getpid(), -c) if c < 0 else os._exit(c)"
    code, text = finish(launch(script, "--restarts=2"))
    assert code == whole
    assert text.count("start\n") == 2 * starts


def test_one_that_fails_takes_the_others_along_after_a_grace():
    script = "import time; time.sleep(0 if i == '0' else 1000); os._exit(65)"
    began = time.monotonic()
    code, _ = finish(launch(script, "--grace=0.5"))
    assert code == 65
    assert 0.5 < time.monotonic() - began < 10


@pytest.mark.parametrize(("number", "whole"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_asks_every_process_to_end_and_nothing_starts_again(number, whole, tmp_path):
    script = f"""
import signal, sys, time, pathlib
signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
pathlib.Path({str(tmp_path)!r}, i).touch()
time.sleep(1000)"""
    launcher = launch(script, "--restarts=5")
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    launcher.send_signal(number)
    code, text = finish(launcher)
    assert code == whole and "restart" not in text


def test_a_second_signal_kills(tmp_path):
    script = f"""
import signal, time, pathlib
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
pathlib.Path({str(tmp_path)!r}, i).touch()
while True: time.sleep(1000)"""
    launcher = launch(script)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    launcher.terminate()
    time.sleep(0.3)
    launcher.terminate()
    assert finish(launcher)[0] == 75


def test_the_processes_end_with_their_launcher():
    launcher = launch("print(os.getpid(), flush=True); import time; time.sleep(1000)")
    pids = [int(launcher.stdout.readline().split()[1]) for _ in range(2)]
    launcher.kill()
    launcher.wait()

    def are_gone() -> bool:
        states = [pathlib.Path(f"/proc/{pid}/stat") for pid in pids]
        return all(not path.exists() or " Z " in path.read_text() for path in states)

    wait_until(are_gone)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_every_script(script):
    assert subprocess.run(["bash", "-n", LAUNCH / script]).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    command = [SHELLCHECK, "-x", "-s", "bash", LAUNCH / script]
    result = subprocess.run(command, cwd=launched.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_launchers_are_short_and_hold_no_hyperparameters():
    for path in LAUNCH.rglob("*"):
        if path.is_file() and path.suffix != ".md":
            lines = path.read_text().splitlines()
            assert len(lines) <= 80, path
            code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
            # A setting may be passed on from the environment; its value stands in no launcher.
            assert not re.search(r"--config\.[\w.]+(?!=\$|[\w.])", code), path


@pytest.mark.parametrize(
    ("file", "variable"), [("gpu.env", "XLA_FLAGS"), ("tpu.env", "LIBTPU_INIT_ARGS")]
)
def test_what_the_user_has_set_wins_over_the_flags_of_a_file(file, variable):
    command = f"set -aeu; . {LAUNCH}/env/{file}; set +a; env -0"
    environment = {"PATH": os.environ["PATH"], variable: "--mine=1"}
    result = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True
    )
    found = dict(line.split("=", 1) for line in result.stdout.split("\0") if line)
    assert found[variable].endswith(" --mine=1") and found[variable].count("--xla") > 5
    assert not [name for name in found if name.startswith("_") and name != "_"]


def test_every_flag_has_a_source():
    for file in ("gpu.env", "tpu.env"):
        comment = ""
        for line in (LAUNCH / "env" / file).read_text().splitlines():
            if line.lstrip().startswith("#"):
                comment = comment + line if comment.startswith("#") else line
            elif "=" in line and not re.match(r"(XLA_FLAGS|LIBTPU_INIT_ARGS)=", line):
                assert re.search(r"\[[A-Z](, [A-Z])*\]", comment), f"{file}: {line}"


# What the published types say about the fields that are used here: a name, and the type or the
# allowed values. https://github.com/kubernetes-sigs/jobset api/jobset/v1alpha2/jobset_types.go
# and https://github.com/kubernetes/api batch/v1/types.go, core/v1/types.go.
CONTAINER = {
    "name": str, "image": str, "command": [str], "args": [str],
    "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
    "resources": {"limits": {str: str}, "requests": {str: str}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}  # fmt: skip
POD = {
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {str: str},
    "tolerations": [{"key": str, "operator": {"Exists", "Equal"}, "value": str, "effect": str}],
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim": {"claimName": str},
            "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": str},
        }
    ],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": {"Indexed", "NonIndexed"},
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [
            {
                "action": {"FailJob", "FailIndex", "Ignore", "Count"},
                "onExitCodes": {"containerName": str, "operator": {"In", "NotIn"}, "values": [int]},
            }
        ]
    },
    "template": {"metadata": {"annotations": {str: str}, "labels": {str: str}}, "spec": POD},
}
ACTIONS = {
    "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob",
    "RestartJobAndIgnoreMaxRestarts",
}  # fmt: skip
JOBSET = {
    "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
    "kind": {"JobSet"},
    "metadata": {"name": str, "annotations": {str: str}, "labels": {str: str}},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": {"Recreate", "BlockingRecreate", "InPlaceRestart"},
            "rules": [{"name": str, "action": ACTIONS, "onJobFailureReasons": [str]}],
        },
        "network": {"enableDNSHostnames": bool, "subdomain": str},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def check(value, kind, path: str = "") -> None:
    if isinstance(kind, dict) and str in kind:
        assert all(type(k) is str and type(v) is str for k, v in value.items()), (path, value)
    elif isinstance(kind, dict):
        assert isinstance(value, dict), (path, value)
        for name, item in value.items():
            assert name in kind, f"{path}.{name} is no field"
            check(item, kind[name], f"{path}.{name}")
    elif isinstance(kind, list):
        for item in value:
            check(item, kind[0], f"{path}[]")
    elif isinstance(kind, set):
        assert value in kind, (path, value)
    else:
        assert type(value) is kind, (path, value)


VALUES = {
    "NAME": "run1", "IMAGE": "image:1", "NODES": "4", "GPUS": "8", "CLAIM": "shared",
    "ACCELERATOR": "kind", "SLICES": "2", "HOSTS": "4", "CHIPS": "4", "TOPOLOGY": "2x2x4",
    "COMMAND": "python -m llama_jax.train --config=configs/X.py",
}  # fmt: skip


def jobset(name: str) -> dict:
    text = (LAUNCH / "gke" / name).read_text()
    used = set(re.findall(r"\$\{(\w+)\}", text))
    header = text[: text.index("apiVersion")]
    assert all(re.search(rf"\b{variable}=", header) for variable in used), "say how each is set"
    return yaml.safe_load(string.Template(text).substitute(VALUES))


@pytest.mark.parametrize("name", ["jobset_gpu.yaml", "jobset_tpu.yaml"])
def test_a_jobset_is_what_the_published_types_allow(name):
    found = jobset(name)
    check(found, JOBSET)
    (group,) = found["spec"]["replicatedJobs"]
    job, pod = group["template"]["spec"], group["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    # Only the codes that a retry does not mend fail the whole; podFailurePolicy needs Never.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [65, 70, 78] and rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    (final,) = found["spec"]["failurePolicy"]["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert job["parallelism"] == job["completions"] == 4
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert container["command"][-1].endswith(f"exec {VALUES['COMMAND']}")


def test_the_gpu_jobset_tells_each_process_its_place():
    (group,) = jobset("jobset_gpu.yaml")["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    environment = {e["name"]: e for e in job["template"]["spec"]["containers"][0]["env"]}
    # <jobset>-<group>-<job index>-<pod index>.<subdomain, by default the jobset's name>
    assert environment["LLAMA_JAX_COORDINATOR"]["value"] == f"run1-{group['name']}-0-0.run1:8476"
    assert environment["LLAMA_JAX_PROCESSES"]["value"] == str(job["completions"])
    field = environment["LLAMA_JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert job["completionMode"] == "Indexed" and group["replicas"] == 1


@pytest.fixture
def job_environment(tmp_path) -> dict[str, str]:
    return slurm.environment(tmp_path)


@pytest.mark.parametrize(
    ("codes", "requeues"),
    [((0, 0), 0), ((75, 75), 1), ((0, 74), 1), ((65, 65), 0), ((78, 75), 0), ((70, 70), 0),
     ((75, 137), 1)],
)  # fmt: skip
def test_a_job_is_requeued_after_74_75_and_kills(codes, requeues, job_environment):
    # The largest code is the step's; one who ends with a final code gives it to all.
    script = f"import os; os._exit({codes}[int(os.environ['SLURM_PROCID'])])"
    job = slurm.sbatch(job_environment, *PYTHON, script, stdout=subprocess.DEVNULL)
    assert job.wait(30) == max(codes)
    requeued = pathlib.Path(job_environment["REQUEUED"])
    assert requeued.exists() == bool(requeues)
    if requeues:
        assert requeued.read_text() == f"requeue {job_environment['SLURM_JOB_ID']}\n"
        requeued.unlink()
        last = job_environment | {"SLURM_RESTART_COUNT": "100"}
        job = slurm.sbatch(last, *PYTHON, script, stdout=subprocess.DEVNULL)
        assert job.wait(30) == max(codes) and not requeued.exists()


GCLOUD = """#!/usr/bin/env bash
for word in "$@"; do
    case $word in --command=*) exec bash -c "${word#--command=}" ;; esac
done
"""


@pytest.mark.parametrize(("second", "starts"), [(0, 2), (65, 2), (75, 3)])
def test_a_tpu_host_starts_again_after_75_only(second, starts, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gcloud").write_text(GCLOUD)
    (tools / "curl").write_text("#!/usr/bin/env bash\necho v5p-16\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "llama_jax").symlink_to(launched.ROOT)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {"LLAMA_JAX_RESTARTS": "3", "LLAMA_JAX_PAUSE": "0"}
    count = tmp_path / "count"
    script = f'echo "$LIBTPU_INIT_ARGS|$1" >> {count}; (($(wc -l < {count}) > 1)) && exit {second}'
    command = ["bash", LAUNCH / "tpu_vm/run.sh", "name", "zone", "bash", "-c", f"{script}; exit 75"]
    result = subprocess.run([*command, "x", "a b"], env=environment, cwd=tmp_path, timeout=30)
    assert result.returncode == second
    lines = count.read_text().splitlines()
    assert len(lines) == starts
    assert all(line.endswith("|a b") and "megacore" in line for line in lines)


@pytest.mark.parametrize("name", ["mqa", "booksum"])
def test_the_variables_of_the_published_scripts_are_honoured(name, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    script = LAUNCH / f"finetune_llama2_7b_32k_{name}.sh"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FINETUNE_")}
    clean["PATH"] = f"{tmp_path}:{clean['PATH']}"

    def asked(**variables):
        command = [str(script), "--config.seed=1"]
        done = subprocess.run(command, env=clean | variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    plain = ["-m", "llama_jax.train", f"--config=configs/{script.stem}.py", "--config.seed=1"]
    assert asked() == plain == asked(FINETUNE_TOTAL_STEPS="")
    assert asked(
        FINETUNE_TOTAL_STEPS="7", FINETUNE_CHECKPOINT_STEPS="3", FINETUNE_CHECKPOINT_PATH="a b"
    ) == [
        *plain[:3],
        "--config.steps=7",
        "--config.checkpoint.every=3",
        "--config.workdir=a b",
        plain[3],
    ]
