#!/usr/bin/env bash
# Creates a TPU VM pod slice and installs this repository on every host of it:
#
#   launch/tpu_vm/create.sh NAME ZONE v5p-16 [gcloud options, e.g. --spot]
set -euo pipefail

if (($# < 3)); then
    echo "usage: launch/tpu_vm/create.sh NAME ZONE ACCELERATOR_TYPE [gcloud options]" >&2
    exit 78
fi
name=$1 zone=$2 type=$3
shift 3
case $type in
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)

gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" \
    --version="${RUNTIME:-$runtime}" "$@"
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$root" archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:llama_jax.tar.gz" --zone="$zone" --worker=all
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command='
    set -eu
    mkdir -p llama_jax && tar -xzf llama_jax.tar.gz -C llama_jax && cd llama_jax
    python3 -m venv .venv && .venv/bin/pip install --quiet -c constraints.txt -e ".[tpu]"'
