# syntax=docker/dockerfile:1
# One image, two environments that cannot share packages (docs/gpus.md):
#   /opt/trainer   NeMo, NeMo-Aligner and Megatron over the image's own PyTorch, Transformer Engine and Apex
#   /opt/engines   TensorRT-LLM with a PyTorch of its own, for engine.python=/opt/engines/bin/python
#
#   docker build -t s2l-nemo .
#   docker run --gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 -v "$PWD":/workspace -it s2l-nemo
#
# 25.12: CUDA 13.1, Python 3.12, PyTorch 2.10.0a0; the CUDA that TensorRT-LLM 1.2.1 asks for. Needs driver 580 or later.
FROM nvcr.io/nvidia/pytorch:25.12-py3

LABEL org.opencontainers.image.title="s2l-nemo" \
      org.opencontainers.image.description="S2L-PO on NeMo-Aligner and Megatron, with TensorRT-LLM engines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/pytorch:25.12-py3"

# The image pins every package it was built with; ours differ, in environments of their own.
ENV PIP_CONSTRAINT="" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*

# The engines first: the larger layer, which changes least. From PyPI torch would come with CUDA 12; TensorRT-LLM's
# wheel lies on NVIDIA's index, and ray, for engines that take new weights, is no dependency of it.
RUN python3 -m venv /opt/engines \
 && /opt/engines/bin/pip install --index-url https://download.pytorch.org/whl/cu130 torch==2.9.1 torchvision==0.24.1 \
 && /opt/engines/bin/pip install --extra-index-url https://pypi.nvidia.com \
      tensorrt_llm==1.2.1 transformers==4.57.3 "ray[default]==2.54.1"

# Exactly the lock without torch, and no dependencies: nothing may replace what the image has compiled.
COPY requirements.lock /opt/s2l_nemo/
RUN python3 -m venv --system-site-packages /opt/trainer \
 && sed '/^torch==/d' /opt/s2l_nemo/requirements.lock > /tmp/requirements.txt \
 && /opt/trainer/bin/pip install --no-deps -r /tmp/requirements.txt \
 && rm /tmp/requirements.txt

COPY pyproject.toml README.md LICENSE /opt/s2l_nemo/
COPY conf /opt/s2l_nemo/conf
COPY recipes /opt/s2l_nemo/recipes
COPY tools /opt/s2l_nemo/tools
COPY s2l_nemo /opt/s2l_nemo/s2l_nemo
ENV PATH=/opt/trainer/bin:$PATH PYTHONPATH=/opt/s2l_nemo

# The build fails where an environment does not import. A build has no driver: CUDA's compatibility library stands in.
ARG DRIVER=/usr/local/cuda/compat/lib.real
RUN LD_LIBRARY_PATH=$DRIVER:$LD_LIBRARY_PATH /opt/trainer/bin/python -c \
      "import apex, torch, transformer_engine.pytorch, nemo_aligner, s2l_nemo.actor.build; \
       assert '.nv' in torch.__version__, 'pip has replaced the torch of the image'"
RUN LD_LIBRARY_PATH=$DRIVER:$LD_LIBRARY_PATH /opt/engines/bin/python -c \
      "import ray, tensorrt_llm, s2l_nemo.engines.served.server; \
       assert tensorrt_llm.__version__ == '1.2.1', tensorrt_llm.__version__"
RUN python /opt/s2l_nemo/tools/check_environment.py --engine-python /opt/engines/bin/python

# Warnings only; one connection keeps Megatron's communication behind the computation that it overlaps with.
# What depends on the cluster (interfaces, InfiniBand devices) is set by recipes/torchrun/environment.sh.
ENV NCCL_DEBUG=WARN CUDA_DEVICE_MAX_CONNECTIONS=1 TOKENIZERS_PARALLELISM=false

# Any user may run it (docker run --user): the code is read-only, runs are written where the host's folder is mounted.
WORKDIR /workspace
