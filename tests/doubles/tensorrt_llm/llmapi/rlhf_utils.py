"""llmapi/rlhf_utils.py."""

from __future__ import annotations

from typing import Any

import torch

from tensorrt_llm._facts import takes
from tensorrt_llm._torch.utils import get_device_uuid


class WorkerExtension:
    """The default extension of an AsyncLLM's workers."""

    device_id: int
    engine: Any

    @takes("WorkerExtension.update_weights")
    def update_weights(self, ipc_handles: dict[str, Any] | None) -> None:
        if ipc_handles is None:
            self.engine.finalize()
            return
        device = get_device_uuid(self.device_id)
        if device not in ipc_handles:
            raise ValueError(f"Device UUID {device} not found in ipc_handles")
        weights: dict[str, torch.Tensor] = {}
        for name, (rebuild, arguments) in ipc_handles[device]:
            arguments = list(arguments)
            arguments[6] = self.device_id
            weights[name] = rebuild(*arguments)
        self.engine.load(weights)
