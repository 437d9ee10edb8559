"""A row for 1.3 on the double of 1.3. test_versions.py runs this file; it is not collected by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.tensorrt_llm import engine
from s2l_nemo.engines.tensorrt_llm.versions import VERSIONS, Version
from s2l_nemo.errors import UserError
from s2l_nemo.types import Source
from tests.agreement import assert_same_completions
from tests.engines.tensorrt_llm.test_tensor_parallel import PARAMS, REQUESTS, expected, settings
from tests.engines.tensorrt_llm.weights import WEIGHT_TAGS, buckets, weights

TAGS = (*WEIGHT_TAGS, "model_weights", "draft_model_weights")
ROW = Version(
    arguments=lambda api: {
        "sampler_type": "TRTLLMSampler",
        "sleep_config": api.SleepConfig(restore_modes={"kv_cache": "NONE"}),
    },
    weight_tags=TAGS,
)


def test_without_the_row_it_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"found tensorrt_llm 1\.3\.0rc0"):
        engine.TensorRTExplorer(settings(folder, Source.EXPLORER, 2))


def test_with_the_row_engines_sample_sleep_and_are_refitted(
    double: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert double.__version__ == "1.3.0rc0"
    monkeypatch.setitem(VERSIONS, "1.3", ROW)
    explorer = engine.TensorRTExplorer(settings(folder, Source.EXPLORER, 2))
    before = explorer.generate(REQUESTS, PARAMS)
    explorer.sleep()
    explorer.resume()
    assert_same_completions(explorer.generate(REQUESTS, PARAMS), before)
    explorer.close()
    learner = engine.TensorRTLearner(settings(folder, Source.LEARNER, 2), None)
    for version in (1, 2):
        learner.sleep()
        assert [worker.engine._asleep for worker in learner._llm.workers] == [{*TAGS, "kv_cache"}] * 2
        learner.update_weights(buckets(weights(version)), version=version)
        learner.resume()
        assert_same_completions(learner.generate(REQUESTS, PARAMS), expected(version, version))
