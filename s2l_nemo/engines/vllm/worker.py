"""What a worker of vLLM does in a refit; vLLM mixes the class into its own worker, by its name.

Sources, of vllm-project/vllm 0.32: v1/worker/worker_base.py (`worker_extension_cls`),
model_executor/model_loader/reload/layerwise.py. The latter takes tensors under Hugging Face names in any pieces, lays
out each layer anew once all of its weights have come (a CPU packs them), and copies the result to where the layer's
weights were, so that captured CUDA graphs stay valid.
"""

from __future__ import annotations

from typing import Any

import torch

from s2l_nemo.engines.served.shared_memory import Layout, SegmentReader


class RefitExtension:
    """Methods that every worker of an engine has besides its own. Their names are no names of vLLM's."""

    model_runner: Any  # these three are the worker's
    vllm_config: Any
    device: torch.device

    def s2l_begin_update(self) -> None:
        """Every tensor may be loaded again from here on."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._s2l_segments = SegmentReader()
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(self.model_runner.get_model())

    def s2l_load_bucket(self, layout: Layout) -> None:
        """Loads a bucket of full tensors from memory that the server's process has written."""
        from vllm.config import set_current_vllm_config

        bucket = self._s2l_segments.read(layout)
        # copies, since a layer waits for its other tensors, and the next bucket overwrites the memory
        copies = [(name, tensor.to(self.device, copy=True)) for name, tensor in bucket.items()]
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            self.model_runner.get_model().load_weights(copies)

    def s2l_finish_update(self) -> None:
        """Ends the update, complete or not. A layer of which nothing has come keeps its weights."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        del self._s2l_segments
        model, config = self.model_runner.get_model(), self.vllm_config.model_config
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            finalize_layerwise_reload(model, config)
            if config.hf_config.tie_word_embeddings:
                # Of a tied head nothing comes, so its layer is left out, and a CPU goes on with its old packed weights.
                model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
