"""What a worker of TensorRT-LLM needs besides its own `WorkerExtension`; Ray workers import it by name.

Source: llmapi/rlhf_utils.py of NVIDIA/TensorRT-LLM 1.2, whose `update_weights` rebuilds each tensor of a bucket as
`function(*arguments)` after setting arguments[6] to the device. A function that returns a given tensor thus loads any
tensor through the whole of that method: its hooks, the reload and the wait for running requests.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from tensorrt_llm._torch.utils import get_device_uuid
from tensorrt_llm.llmapi.rlhf_utils import WorkerExtension


class RefitExtension(WorkerExtension):
    """Mixed into every worker of an engine by `ray_worker_extension_cls`."""

    def reset_prefix_cache(self) -> None:
        """Forgets cached prompts, whose KV blocks are of old weights or about to be released."""
        self.engine.reset_prefix_cache()

    def update_weights_from_file(self, path: str) -> None:
        """Loads a bucket of full tensors under Hugging Face names from a safetensors file in shared memory."""
        handles = [(name, (_given, (tensor, *[None] * 6))) for name, tensor in load_file(path).items()]
        self.update_weights({get_device_uuid(self.device_id): handles})


def _given(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor
