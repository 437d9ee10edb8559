#!/usr/bin/env bash
# Appendix C on one node of 8 GPUs, inside the container:
#
#   recipes/torchrun/train_1x8.sh [key=value ...]
#
# `python recipes/train_s2l.py trainer.devices=8` alone starts the same ranks; this shows them, and sets NCCL up.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"

# 80 GB GPUs: tensor parallelism over 2, and 4 engines of each model on 2 GPUs each (tools/plan.py with the same keys).
exec python -m torch.distributed.run --standalone --nproc-per-node=8 "$here/../train_s2l.py" \
  --config-name paper \
  trainer.devices=8 \
  model.tensor_model_parallel_size=2 \
  engine.kind=tensorrt_llm \
  engine.python=/opt/engines/bin/python \
  engine.replicas_per_node=4 \
  engine.tensor_parallel_size=2 \
  engine.memory_fraction=0.2 \
  rollout.max_batch_rows=256 \
  "$@"
