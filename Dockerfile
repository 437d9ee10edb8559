# syntax=docker/dockerfile:1
# One image, two environments that cannot share packages (docs/gpus.md says why these bases):
#   /opt/trainer   NeMo, NeMo-Aligner and Megatron over the image's own PyTorch, Transformer Engine and Apex
#   /opt/engines   Ray over the image's own TensorRT-LLM, for engine.python=/opt/engines/bin/python
#
#   docker build -t s2l-nemo .
#   docker run --gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 -v "$PWD":/workspace -it s2l-nemo
#
# Without TensorRT-LLM, on the PyTorch image that NeMo 2.4 was made with:
#   docker build -t s2l-nemo-trainer --target trainer --build-arg BASE=nvcr.io/nvidia/pytorch:25.05-py3 .

# TensorRT-LLM's release image is NVIDIA's pytorch:25.12-py3 (CUDA 13.1, Python 3.12, PyTorch 2.10.0a0, Transformer Engine
# 2.10) with a TensorRT-LLM that is compiled against that PyTorch. Needs driver 580 or later.
ARG BASE=nvcr.io/nvidia/tensorrt-llm/release:1.2.1@sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9
# A build has no driver: CUDA's compatibility library stands in where something is imported.
ARG DRIVER=/usr/local/cuda/compat/lib.real

FROM ${BASE} AS trainer
ARG BASE
LABEL org.opencontainers.image.title="s2l-nemo" \
      org.opencontainers.image.description="S2L-PO on NeMo-Aligner and Megatron, with TensorRT-LLM engines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"

# The image pins every package it was built with; ours differ, in environments of their own. Megatron's setup.py calls
# the first `python3` of the PATH, which must be the one that it is installed for.
ENV PIP_CONSTRAINT="" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/trainer/bin:$PATH

# Exactly the lock without torch, by its hashes, and no dependencies: nothing may replace what the image has compiled.
COPY requirements.hashes /opt/s2l_nemo/
RUN /usr/bin/python3 -m venv --without-pip --system-site-packages /opt/trainer \
 && python -m pip install --no-deps --require-hashes -r /opt/s2l_nemo/requirements.hashes

COPY pyproject.toml README.md LICENSE /opt/s2l_nemo/
COPY conf /opt/s2l_nemo/conf
COPY recipes /opt/s2l_nemo/recipes
COPY tools /opt/s2l_nemo/tools
COPY s2l_nemo /opt/s2l_nemo/s2l_nemo
ENV PYTHONPATH=/opt/s2l_nemo

# Any user may run it (docker run --user): the code is read-only, runs are written where the host's folder is mounted,
# and all that packages write beside is in /cache, with a name for a user that the image does not know.
ENV HOME=/cache XDG_CACHE_HOME=/cache/xdg TRITON_CACHE_DIR=/cache/triton TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    FLASHINFER_WORKSPACE_BASE=/cache USER=s2l LOGNAME=s2l RAY_USAGE_STATS_ENABLED=0
# Warnings only; one connection keeps Megatron's communication behind the computation that it overlaps with.
# What depends on the cluster (interfaces, InfiniBand devices) is set by recipes/torchrun/environment.sh.
ENV NCCL_DEBUG=WARN CUDA_DEVICE_MAX_CONNECTIONS=1 TOKENIZERS_PARALLELISM=false

# The build fails where the trainer does not import. What an image's Apex lacks of what NeMo asks for is filled, as in a
# run; Transformer Engine must be there. The last line empties /cache: what root has cached no other user could change.
ARG DRIVER
RUN LD_LIBRARY_PATH=$DRIVER:$LD_LIBRARY_PATH python -c \
      "from nemo.collections.nlp.parts import nlp_overrides; \
       from nemo.collections.nlp.modules.common.megatron import build_model; \
       from megatron.core.extensions import transformer_engine; \
       print('Apex has distributed_fused_adam:', nlp_overrides.HAVE_APEX, 'transformer:', build_model.HAVE_APEX); \
       from s2l_nemo.platform import extras; extras.fill(); \
       assert nlp_overrides.HAVE_APEX and build_model.HAVE_APEX, 'Apex has not been filled'; \
       assert transformer_engine.HAVE_TE, 'Megatron cannot use the Transformer Engine of the image'; \
       import nemo_aligner, s2l_nemo.actor.build, torch; \
       assert '.nv' in torch.__version__, 'pip has replaced the torch of the image'" \
 && python /opt/s2l_nemo/tools/check_environment.py \
 && rm -rf /cache && install -d -m 1777 /cache

VOLUME /cache
WORKDIR /workspace
# A training container is well as long as its process runs; what can break under it is a mount over an interpreter.
HEALTHCHECK --interval=5m --timeout=1m CMD /opt/trainer/bin/python -c pass

FROM trainer AS engines
COPY requirements-engines.hashes /opt/s2l_nemo/
# --no-index installs nothing: it fails where the image and the lock together lack something that Ray needs.
RUN /usr/bin/python3 -m venv --without-pip --system-site-packages /opt/engines \
 && /opt/engines/bin/python -m pip install --no-deps --require-hashes -r /opt/s2l_nemo/requirements-engines.hashes \
 && /opt/engines/bin/python -m pip install --no-index "ray[default]==2.54.1"

# tensorrt_llm asks for libcuda.so.1 and libnvidia-ml.so.1, which come with a driver; the toolkit's stub stands in for the
# second. Should the import still want a device: --build-arg IMPORT=ray, and import it once on a GPU.
ARG DRIVER
ARG IMPORT=ray,tensorrt_llm
RUN mkdir /tmp/driver && ln -s /usr/local/cuda/lib64/stubs/libnvidia-ml.so /tmp/driver/libnvidia-ml.so.1 \
 && TLLM_DISABLE_MPI=1 LD_LIBRARY_PATH=$DRIVER:/tmp/driver:$LD_LIBRARY_PATH /opt/engines/bin/python -c \
      "import $IMPORT, s2l_nemo.engines.served.server; from importlib.metadata import version; \
       assert version('tensorrt_llm') == '1.2.1', version('tensorrt_llm'); \
       import torch; assert '.nv' in torch.__version__, 'pip has replaced the torch of the image'" \
 && python /opt/s2l_nemo/tools/check_environment.py --engine-python /opt/engines/bin/python \
 && rm -rf /tmp/driver /cache && install -d -m 1777 /cache
HEALTHCHECK --interval=5m --timeout=1m CMD /opt/trainer/bin/python -c pass && /opt/engines/bin/python -c pass
