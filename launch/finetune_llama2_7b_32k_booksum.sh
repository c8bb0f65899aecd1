#!/usr/bin/env bash
# configs/finetune_llama2_7b_32k_booksum.py, told by the variables of OpenChatKit's script of this name:
#   FINETUNE_TOTAL_STEPS, FINETUNE_CHECKPOINT_STEPS, FINETUNE_CHECKPOINT_PATH
#   FINETUNE_CHECKPOINT_STEPS=100 launch/finetune_llama2_7b_32k_booksum.sh --config.init_from=MODEL
set -euo pipefail
flags=()
if [[ -n "${FINETUNE_TOTAL_STEPS:-}" ]]; then flags+=("--config.steps=$FINETUNE_TOTAL_STEPS"); fi
if [[ -n "${FINETUNE_CHECKPOINT_STEPS:-}" ]]; then
  flags+=("--config.checkpoint.every=$FINETUNE_CHECKPOINT_STEPS")
fi
if [[ -n "${FINETUNE_CHECKPOINT_PATH:-}" ]]; then
  flags+=("--config.workdir=$FINETUNE_CHECKPOINT_PATH")
fi
cd "$(dirname "$0")/.."
exec python -m llama_jax.train --config=configs/finetune_llama2_7b_32k_booksum.py "${flags[@]}" "$@"
