#!/usr/bin/env bash
# Runs one command as one run on all hosts of a TPU VM pod slice (see create.sh):
#
#   launch/tpu_vm/run.sh NAME ZONE python -m llama_jax.train --config=configs/X.py \
#       --config.workdir=/shared/run
#
# The workdir is on a file system that all hosts mount (Filestore, or Cloud Storage FUSE). Every host
# starts again after 74 (storage) and 75 (again); they wait for each other, so all do. Each host
# finds its place in the TPU's metadata.
set -euo pipefail

if (($# < 3)); then
    echo "usage: launch/tpu_vm/run.sh NAME ZONE COMMAND..." >&2
    exit 78
fi
name=$1 zone=$2
shift 2
command=$(printf '%q ' "$@")
# SIGTERM (a preempted or stopped VM) goes to the process, which saves.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
    cd llama_jax
    export PATH=\$PWD/.venv/bin:\$PATH
    LLAMA_JAX_TPU=\$(curl -sfm 5 -H Metadata-Flavor:Google \
        http://metadata.google.internal/computeMetadata/v1/instance/attributes/accelerator-type)
    set -a; . launch/env/tpu.env; set +a
    for start in \$(seq ${LLAMA_JAX_RESTARTS:-100}); do
        $command &
        process=\$!
        trap 'kill -TERM \$process; stopped=1' TERM HUP INT
        wait \$process; code=\$?
        while kill -0 \$process 2>/dev/null; do wait \$process; code=\$?; done
        [ -z \"\${stopped:-}\" ] || exit \$code
        case \$code in 74|75|1[2-9][0-9]) sleep \${LLAMA_JAX_PAUSE:-10} ;; *) exit \$code ;; esac
    done
    exit \$code"
