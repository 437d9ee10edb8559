#!/usr/bin/env bash
# One rank for each GPU of a Slurm allocation; the .sbatch files call it from the root of the clone.
#
# IMAGE   container for pyxis, for instance registry#s2l-nemo or a .sqsh file; unset: no container
# MOUNTS  more folders for the container: /models:/models,/scratch/cache:/cache
# PYTHON  interpreter of the trainer (default: the container's; without a container, `python` of PATH)
#
# Without a container give the engines' interpreter too: engine.python=/path/to/python
set -euo pipefail
source recipes/torchrun/environment.sh

# A container has no scontrol, so the ranks are told where rank 0 is.
hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
MASTER_ADDR="${hosts%%$'\n'*}" # the first line
MASTER_PORT="$((20000 + SLURM_JOB_ID % 10000))"
export MASTER_ADDR MASTER_PORT

container=() python=python
if [[ -n "${IMAGE:-}" ]]; then
  python=/opt/trainer/bin/python
  container=(
    --container-image="$IMAGE" --container-mounts="$PWD:/workspace${MOUNTS:+,$MOUNTS}" --container-workdir=/workspace
    --container-env=CUDA_DEVICE_MAX_CONNECTIONS,NCCL_DEBUG,TOKENIZERS_PARALLELISM # ours, not the image's
  )
fi

# Ranks are Slurm's own tasks, without torchrun, so that its SIGTERM reaches each: they finish the step, save and leave.
# --mpi=none: variables of an MPI launcher would mislead the engine processes.
exec srun --mpi=none --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" "${container[@]}" \
  "${PYTHON:-$python}" recipes/train_s2l.py \
  --config-name paper \
  hardware=h100_80gb \
  trainer.num_nodes="$SLURM_JOB_NUM_NODES" \
  "$@"
