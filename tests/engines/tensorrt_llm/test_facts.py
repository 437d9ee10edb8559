"""The double takes what the facts say and nothing else: every call with a wrong type, an unknown and a missing name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.tensorrt_llm.arguments import sampling_arguments
from s2l_nemo.engines.tensorrt_llm.versions import VERSIONS
from s2l_nemo.types import SampleRequest, SamplingParams

FACTS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "doubles" / "tensorrt_llm" / "facts.json").read_text()
)
VERSION = os.environ.get("TENSORRT_LLM_DOUBLE", "1.2")  # as the double's; test_versions.py runs this file with others
CALLS: dict[str, dict[str, Any]] = {
    call: facts for call, facts in FACTS["calls"].items() if VERSION in facts.get("versions", FACTS["versions"])
}
# The required arguments of a good call.
GOOD: dict[str, dict[str, Any]] = {
    "LLM": {"model": "nowhere"},
    "AsyncLLM": {"model": "nowhere"},
    "CompletionOutput": {"index": 0},
    "LLM.generate": {"inputs": [[1]]},
    "LLM.generate_async": {"inputs": [1]},
    "LLM._collective_rpc": {"method": "report_device_id"},
    "AsyncLLM.collective_rpc": {"method": "report_device_id"},
    "AsyncLLM.release": {"tags": ["model"]},
    "AsyncLLM.resume": {"tags": ["model"]},
    "AsyncLLM.update_weights": {"weights": None},
    "RayGPUWorker.sleep": {"sleep_tags": ["model"]},
    "RayGPUWorker.wakeup": {"wakeup_tags": ["model"]},
}


def of_version(call: str, version: str = VERSION) -> dict[str, dict[str, Any]]:
    """The arguments of a call, with those of the call that it hands its own to."""
    own = {
        name: facts
        for name, facts in CALLS[call]["arguments"].items()
        if version in facts.get("versions", FACTS["versions"])
    }
    return own | (of_version(CALLS[call]["also"], version) if "also" in CALLS[call] else {})


def required(call: str) -> list[str]:
    return [name for name, facts in of_version(call).items() if "default" not in facts and "factory" not in facts]


def wrong_types() -> Iterator[Any]:
    for call in CALLS:
        for name, facts in of_version(call).items():
            if facts["type"] != "Any":
                yield pytest.param(call, name, id=f"{call} {name}")


@pytest.fixture(scope="module")
def calls(double: Any, folder: Path) -> dict[str, Callable[..., Any]]:
    """What each name of the facts stands for."""
    import ray
    import tensorrt_llm.llmapi as api
    from tensorrt_llm._llm import RequestOutput

    llm_args = {
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "orchestrator_type": "ray",
        "ray_worker_extension_cls": "tensorrt_llm.llmapi.rlhf_utils.WorkerExtension",
    }
    llm = double.LLM(str(folder), **llm_args)
    owners = {
        "LLM": llm,
        "AsyncLLM": object.__new__(double.AsyncLLM),
        "RequestOutput": RequestOutput(llm, 1, [1]),
        "RayGPUWorker": llm.workers[0],
        "WorkerExtension": llm.workers[0],
        "ray": ray,
    }
    found = {}
    for call in CALLS:
        owner, _, method = call.rpartition(".")
        found[call] = getattr(owners[owner], method) if owner else getattr(api, method)
    return found


def refuses(call: Callable[..., Any], message: str, **arguments: Any) -> None:
    """A coroutine's arguments are checked when it is called, not when it is awaited."""
    with pytest.raises((TypeError, ValueError), match=message):
        call(**arguments)


@pytest.mark.parametrize(("call", "name"), list(wrong_types()))
def test_a_wrong_type(calls: dict[str, Callable[..., Any]], call: str, name: str) -> None:
    refuses(calls[call], f"{name} must be", **{**GOOD.get(call, {}), name: object()})


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_name(calls: dict[str, Callable[..., Any]], call: str) -> None:
    refuses(calls[call], "no_such_name: extra inputs are not permitted", **GOOD.get(call, {}), no_such_name=1)


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_argument(calls: dict[str, Callable[..., Any]], call: str) -> None:
    assert required(call) == list(GOOD.get(call, {}))
    for name in required(call):
        given = {other: value for other, value in GOOD[call].items() if other != name}
        refuses(calls[call], f"missing a required .*argument: '{name}'", **given)


@pytest.mark.parametrize("call", ["KvCacheConfig", "SchedulerConfig", "CudaGraphConfig", "SamplingParams"])
def test_all_defaults_are_those_of_the_facts(calls: dict[str, Callable[..., Any]], call: str) -> None:
    made = calls[call]()
    for name, facts in of_version(call).items():
        assert getattr(made, name) == facts["default"], name


def test_every_name_is_taken(calls: dict[str, Callable[..., Any]], folder: Path) -> None:
    """With its default, which the real one would take, too."""
    given = {name: facts["default"] for name, facts in of_version("LLM").items() if "default" in facts}
    made = calls["LLM"](**given | {"model": str(folder), "skip_tokenizer_init": True})
    assert made.args.max_batch_size == 2048


def test_results_have_the_attributes_of_the_facts(double: Any, folder: Path) -> None:
    llm = double.LLM(str(folder), skip_tokenizer_init=True, dtype="float32", sampler_type="TRTLLMSampler")
    arguments = sampling_arguments(SampleRequest(0, 0, (5, 6), 1), SamplingParams(4, (1,)))
    [result] = llm.generate([[5, 6]], [double.SamplingParams(**arguments)], use_tqdm=False)
    for name in FACTS["request_output"]["attributes"]:
        getattr(result, name)
    assert vars(result.outputs[0]).keys() == of_version("CompletionOutput").keys()


def test_every_fact_has_a_source() -> None:
    for call, facts in CALLS.items():
        assert facts["sources"], call
        assert set(facts["sources"]) <= FACTS["sources"].keys(), call
    for name, source in FACTS["sources"].items():
        assert source["file"], name
        assert source["read"], name


@pytest.mark.parametrize("version", FACTS["versions"])
def test_a_row_of_the_versions_fits_the_facts(version: str) -> None:
    """1.3 takes `enable_sleep` away. So the row of 1.2 does not do, and there is none."""
    unknown = VERSIONS["1.2"].arguments(None).keys() - of_version("LLM", version).keys()
    assert unknown == ({"enable_sleep"} if version == "1.3" else set())
    assert (version in VERSIONS) == (version == "1.2")
    assert set(VERSIONS["1.2"].weight_tags) <= set(FACTS["memory_tags"][version])
