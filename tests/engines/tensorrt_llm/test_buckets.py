"""What TensorRT-LLM keeps in one matrix comes in one bucket, and what it would compute otherwise is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.buckets import check_fused
from s2l_nemo.engines.tensorrt_llm.make import MAKER, refit_gpus
from s2l_nemo.engines.tensorrt_llm.transport import Cuda
from s2l_nemo.errors import UserError
from s2l_nemo.models.layout import buckets, entries
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source
from tests.distributed.models import write_variant
from tests.models.shapes import small_shape

LAYER = "model.layers.0.self_attn."
QKV = [f"{LAYER}{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")]


@pytest.mark.parametrize("absent", QKV)
def test_a_bias_comes_with_its_weights(absent: str) -> None:
    bucket = {name: torch.zeros(1) for name in QKV}
    check_fused(bucket, QKV, 3)
    del bucket[absent]
    with pytest.raises(ValueError, match=rf"weight version 3: .* came without {absent}, which is fused with it"):
        check_fused(bucket, QKV, 3)


@pytest.mark.parametrize("size", [1, 60, 400, 10_000])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_buckets_of_a_refit_are_such(family: str, size: int) -> None:
    shape = small_shape(family=family, layers=3, hidden=4, heads=4, kv_heads=2, ffn=6, vocab=8, tied=False)
    names = [name for entry in entries(shape) for name in entry.hf_names()]
    for bucket in buckets(entries(shape), shape, 4, size):
        check_fused({name: torch.zeros(1) for entry in bucket for name in entry.hf_names()}, names, 1)


@pytest.mark.parametrize("source", Source)
def test_yarn_is_refused(tmp_path: Path, source: Source) -> None:
    model = open_model("model.path", str(write_variant(tmp_path, "yarn")))
    settings = EngineSettings(
        source=source, key="model.path", path=model.path, precision=Precision.fp32, device="cuda", max_batch_rows=8,
        max_sequence_length=48, tensor_parallel_size=1, memory_fraction=0.4,
    )  # fmt: skip
    make = MAKER.learner if source is Source.LEARNER else MAKER.explorer
    with pytest.raises(UserError, match=r"^model\.path=.* has YaRN positions.*: set engine\.kind=vllm or server"):
        make(settings, model)


def test_a_refit_goes_by_handles_where_there_is_cuda_unless_a_file_is_wanted() -> None:
    assert isinstance(refit_gpus({}, has_cuda=True), Cuda)
    assert refit_gpus({}, has_cuda=False) is None
    for has_cuda in (False, True):
        assert refit_gpus({"S2L_TENSORRT_LLM_REFIT": "file"}, has_cuda) is None
        with pytest.raises(UserError, match=r"^S2L_TENSORRT_LLM_REFIT=ipc: the value is file; without it"):
            refit_gpus({"S2L_TENSORRT_LLM_REFIT": "ipc"}, has_cuda)
