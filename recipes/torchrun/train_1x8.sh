#!/usr/bin/env bash
# Appendix C on one node of 8 GPUs, inside the container:
#
#   recipes/torchrun/train_1x8.sh [key=value ...]
#
# Outside it: PYTHON=/path/to/python recipes/torchrun/train_1x8.sh engine.python=/path/to/another/python
#
# `python recipes/train_s2l.py trainer.devices=8` alone starts the same ranks; this shows them, and sets NCCL up.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"

exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node=8 "$here/../train_s2l.py" \
  --config-name paper \
  hardware=h100_80gb \
  "$@"
