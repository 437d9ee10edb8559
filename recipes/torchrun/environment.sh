# shellcheck shell=bash
# Environment of the ranks, sourced by the launch scripts. Every value can be set before; docs/gpus.md explains each.

# Megatron: one hardware queue, so that the communication of tensor parallelism starts before the kernel behind it.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
# WARN prints failures only; INFO shows which network and which ring each rank has chosen.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# Tokenizers' threads do not survive a fork. Without a number of threads torchrun would say 1, Slurm all cores.
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

# Several nodes: name what NCCL would choose wrongly. See `ip -br link` and `ibstat` on a node.
# export NCCL_SOCKET_IFNAME=bond0    # bootstrap, and data without InfiniBand; gloo has its own
# export GLOO_SOCKET_IFNAME=bond0
# export NCCL_IB_HCA=mlx5            # prefix of the adapters; NCCL_IB_DISABLE=1 for Ethernet alone
# Less memory where engines share the GPUs, at some speed of all-reduce on NVSwitch:
# export NCCL_NVLS_ENABLE=0
# Not PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True: CUDA IPC cannot hand such memory to an engine everywhere.
