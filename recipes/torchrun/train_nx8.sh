#!/usr/bin/env bash
# Appendix C on N nodes of 8 GPUs. Run it on every node, inside the container, with the same NODES and MASTER_ADDR:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=node0 recipes/torchrun/train_nx8.sh [key=value ...]    # on node0
#   NODES=2 NODE_RANK=1 MASTER_ADDR=node0 recipes/torchrun/train_nx8.sh [key=value ...]    # on the other
#
# Outside it set PYTHON and engine.python, as in train_1x8.sh. run.dir, models and data must lie on a file system that
# all nodes share.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/environment.sh"
: "${NODES:?number of nodes}" "${NODE_RANK:?0 to NODES - 1}" "${MASTER_ADDR:?host name of node 0}"

exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="$NODES" --node-rank="$NODE_RANK" --nproc-per-node=8 \
  --master-addr="$MASTER_ADDR" --master-port="${MASTER_PORT:-29500}" \
  "$here/../train_s2l.py" \
  --config-name paper \
  hardware=h100_80gb \
  trainer.num_nodes="$NODES" \
  "$@"
