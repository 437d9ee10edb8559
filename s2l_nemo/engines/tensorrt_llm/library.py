"""tensorrt_llm itself, imported when the first engine is built, and the Ray that its workers run in."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from s2l_nemo.engines.tensorrt_llm.versions import ADVICE
from s2l_nemo.errors import UserError

_ENVIRONMENT = {
    "TLLM_DISABLE_MPI": "1",  # Ray starts the workers
    "TLLM_RAY_FORCE_LOCAL_CLUSTER": "1",  # never attach to another engine's cluster: each counts its own GPUs
    "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "1",  # the parallel loader drops modules of a partial update
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # as RayExecutor sets it before it starts Ray
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_num_prestart_python_workers": "0",  # no idle Python process for each CPU
    "RAY_prestart_worker_first_driver": "0",
}
_OBJECT_STORE_BYTES = 256 * 2**20  # Ray takes 30 % of the memory otherwise; only prompts and tokens go through it
# Of the 107 characters of a socket's name Ray takes 64, its folder 10, and the folder of the server 12.
_LONGEST_TMPDIR = 107 - 64 - 10


def import_tensorrt_llm() -> Any:
    """The library, with the environment that its workers inherit. Raises UserError if it is missing."""
    os.environ.update(_ENVIRONMENT)
    root = str(Path(__file__).resolve().parents[3])  # Ray workers import the extension by its name
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        import tensorrt_llm
        import tensorrt_llm.llmapi
    except ModuleNotFoundError as error:
        raise UserError(f"engine.kind=tensorrt_llm: {sys.executable} has no module {error.name}; {ADVICE}") from error
    return tensorrt_llm


class LocalRay:
    """A Ray of this process alone, as small as the workers allow.

    TensorRT-LLM starts one itself, with a Python worker and a share of the memory for all that it sees of the node,
    unless one runs: RayExecutor's own `ray.init` has `ignore_reinit_error` and then does nothing. Its placement group
    wants as many CPUs as GPUs.
    """

    def __init__(self, gpus: int) -> None:
        """Raises UserError if Ray is missing or the temporary folder has too long a name for its sockets."""
        base = tempfile.gettempdir()
        if len(base) > _LONGEST_TMPDIR:
            raise UserError(
                f"TMPDIR={base} is too long for Ray's sockets: start the trainer with a TMPDIR of at most "
                f"{_LONGEST_TMPDIR - 12} characters, such as /tmp"
            )
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError(f"engine.kind=tensorrt_llm: {sys.executable} has no module ray; {ADVICE}") from error
        self._ray: Any = ray
        self._folder = tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True)
        self._ray.init(
            address="local",
            num_cpus=gpus + 1,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            namespace="trtllm",
            runtime_env={"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}},
            _temp_dir=self._folder.name,
        )

    def close(self) -> None:
        """Ends Ray's processes and removes its folder. Nothing happens if that is done already."""
        self._ray.shutdown()
        self._folder.cleanup()
