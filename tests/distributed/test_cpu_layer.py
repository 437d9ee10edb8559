"""Every mapping of the CPU layer and of `extras`, in a process that has them; and that they keep out if not needed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.distributed.ranks import run_ranks


def mappings() -> dict[str, Any]:
    import torch
    from megatron.core.optimizer import distrib_optimizer
    from megatron.core.tensor_parallel import random as mcore_random
    from nemo.collections.nlp.modules.common.megatron import build_model, utils
    from nemo.collections.nlp.parts import nlp_overrides

    torch.distributed.init_process_group("gloo")
    tensor = torch.ones(2)
    factories = {
        "tensor": torch.tensor([1.0], device="cuda"),
        "as_tensor": torch.as_tensor([1.0], device="cuda:0"),
        "zeros": torch.zeros(2, device=torch.device("cuda", 0)),
        "ones": torch.ones(2, device="cuda"),
        "empty": torch.empty(2, device="cuda"),
        "full": torch.full((2,), 1.0, device="cuda"),
        "empty_like": torch.empty_like(tensor, device="cuda"),
        "zeros_like": torch.zeros_like(tensor, device="cuda"),
        "arange": torch.arange(3, device="cuda"),
    }
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    first = torch.rand(2)
    torch.cuda.set_rng_state(state)
    second = torch.rand(2)
    mcore_random._set_cuda_rng_state(state)
    third = torch.rand(2)
    with torch.cuda.Stream() as stream:
        stream.wait_stream(torch.cuda.current_stream())
        stream.synchronize()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.set_device(0)
    norm = torch.nn.LayerNorm(2)
    return {
        "factories": {name: str(value.device) for name, value in factories.items()},
        "cuda method": tensor.cuda() is tensor and norm.cuda() is norm,
        "to": [
            str(tensor.to("cuda").device),
            str(tensor.to(device="cuda").device),
            str(tensor.to(torch.float64).dtype),
        ],
        "type": [tensor.type(), torch.ones(1).bfloat16().type(), str(tensor.type(torch.int64).dtype)],
        "current device": str(torch.cuda.current_device()),
        "typed": torch.cuda.FloatTensor([1.5]).tolist(),  # type: ignore[attr-defined]  # torch makes it at run time
        "random": torch.equal(first, second) and torch.equal(first, third),
        "apex": nlp_overrides.HAVE_APEX and utils.HAVE_APEX,
        "listify": (utils.listify_model(1), utils.listify_model([1])),
        "norms": isinstance(norm, (utils.FastLayerNorm, utils.FusedLayerNorm, utils.MixedFusedRMSNorm)),
        "defaults": build_model.set_defaults_if_not_set_tensor_model_parallel_attributes.__module__,
        "quantize": distrib_optimizer.quantize_param_shard([], [], [], None),
    }


def test_every_mapping() -> None:
    (found,) = run_ranks(mappings, 1)
    assert set(found["factories"].values()) == {"cpu"}
    assert found["cuda method"]
    assert found["to"] == ["cpu", "cpu", "torch.float64"]
    assert found["type"] == ["torch.cuda.FloatTensor", "torch.cuda.BFloat16Tensor", "torch.int64"]
    assert found["current device"] == "cpu"
    assert found["typed"] == [1.5]
    assert found["random"]
    assert found["apex"]
    assert found["listify"] == ([1], [1])
    assert not found["norms"]
    assert found["defaults"] == "megatron.core.tensor_parallel.layers"
    assert found["quantize"] is None


def test_it_refuses_to_load_where_cuda_is() -> None:
    code = (
        "import torch\ntorch.cuda.is_available = lambda: True\nfrom s2l_nemo.platform import cpu\n"
        "assert not cpu.needed()\nzeros = torch.zeros\n"
        "try: cpu.install()\nexcept RuntimeError as error: print(error)\nassert torch.zeros is zeros\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "must stay inactive where CUDA is available" in result.stdout


def test_nothing_of_megatron_is_imported_before_its_messages_are_kept_to_errors() -> None:
    code = (
        "import logging, sys\nfrom s2l_nemo.platform import cpu\nfrom s2l_nemo.trainer import start\n"
        "cpu.needed = lambda: print(logging.getLogger('megatron').level, 'megatron.core' in sys.modules)\n"
        "start.preload()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{logging.ERROR} False\n", done.stderr


EMPTY_APEX = """
import importlib
from s2l_nemo.platform import cpu, extras
cpu.install()
overrides, build_model, utils, distributed, fp8 = map(importlib.import_module, (
    "nemo.collections.nlp.parts.nlp_overrides",
    "nemo.collections.nlp.modules.common.megatron.build_model",
    "nemo.collections.nlp.modules.common.megatron.utils",
    "megatron.core.optimizer.distrib_optimizer",
    "megatron.core.fp8_utils",
))
assert importlib.import_module("apex").__file__.startswith(PLACE)
before = (distributed.quantize_param_shard, distributed.DistributedOptimizer.state_dict)

# as if NeMo and Megatron had found all that they look for
overrides.HAVE_APEX = build_model.HAVE_APEX = utils.HAVE_APEX = fp8.HAVE_TE = distributed.HAVE_APEX_OR_TE = True
extras.fill()
assert not hasattr(build_model, "set_defaults_if_not_set_tensor_model_parallel_attributes")
assert not hasattr(utils, "listify_model") and not hasattr(overrides, "McoreDistributedOptimizer")
assert before == (distributed.quantize_param_shard, distributed.DistributedOptimizer.state_dict)

# Transformer Engine is there, Apex has lost the parts that NeMo asks for
overrides.HAVE_APEX = build_model.HAVE_APEX = utils.HAVE_APEX = False
extras.torch._s2l_extras = False
extras.fill()
assert overrides.HAVE_APEX and build_model.HAVE_APEX and utils.HAVE_APEX
assert utils.listify_model(1) == [1]
assert before == (distributed.quantize_param_shard, distributed.DistributedOptimizer.state_dict)
"""


def test_the_flags_of_nemo_and_megatron_decide_what_extras_fill(tmp_path: Path) -> None:
    """An Apex that lacks what NeMo asks for counts as missing there; what was found stays as it is."""
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").touch()
    code = EMPTY_APEX.replace("PLACE", repr(str(tmp_path)))
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
