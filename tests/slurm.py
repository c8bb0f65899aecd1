"""A SLURM of this machine: a batch script whose srun starts real processes."""

import os
import pathlib
import socket
import subprocess

import launched

SRUN = """#!/usr/bin/env bash
# Starts the tasks of a step as srun would: with SLURM_*, passing signals on.
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_NODELIST=localhost SLURM_NODEID=0
export SLURM_STEP_TASKS_PER_NODE=$SLURM_NTASKS
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
    tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
largest=0
for task in "${tasks[@]}"; do
    wait "$task"; code=$?
    while kill -0 "$task" 2>/dev/null; do wait "$task"; code=$?; done
    ((code > largest)) && largest=$code
done
exit $largest
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$REQUEUED"
"""


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Returns the environment of a job of two tasks on this node."""
    tools = folder / "bin"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        job = free.getsockname()[1]
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(launched.ROOT),
        "SLURM_JOB_ID": str(job),
        "SLURM_NTASKS": "2",
        "SLURM_SUBMIT_DIR": str(launched.ROOT),
        "REQUEUED": str(folder / "requeued"),
    }


def sbatch(environment: dict[str, str], *command: str, **options) -> subprocess.Popen:
    """Runs the batch script with a command."""
    script = ["bash", str(launched.ROOT / "launch" / "slurm" / "train.sbatch"), *command]
    return subprocess.Popen(script, env=environment, **options)
