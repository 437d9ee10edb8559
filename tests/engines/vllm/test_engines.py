"""Both engines on the real vLLM, against transformers and the embedded engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import chisquare

from s2l_nemo.engines.embedded.engine import EmbeddedLearnerEngine
from s2l_nemo.engines.embedded.sampling import sampling_logprobs
from s2l_nemo.engines.protocol import Bucket, EngineError, LearnerEngine, RolloutEngine
from s2l_nemo.engines.served.client import ServedEngine, ServedLearnerEngine
from s2l_nemo.models.open import open_model
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.distributed.models import write_qwen3, write_variant
from tests.engines.vllm.real import factory, needs_vllm
from tests.random_qwen3 import random_qwen3

pytestmark = needs_vllm

STOPS = tuple(range(24))
PARAMS = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS)
GREEDY = replace(PARAMS, temperature=0.0)
LOGPROB_BOUND = 1e-3  # nats a token, in float32
FIGURES: dict[str, Any] = {"head_dim": 32, "vocab_size": 304}  # vLLM's attention on a CPU knows multiples of 32
REQUESTS = [
    SampleRequest(prompt, sample, tuple((31 * prompt + 7 * place) % 280 + 24 for place in range(3 + prompt)), seed)
    for prompt in range(4)
    for sample, seed in enumerate(range(100 * prompt, 100 * prompt + 8))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def path(folder: Path, request: pytest.FixtureRequest) -> Path:
    return write_qwen3(folder / f"tied_{request.param}", layers=2, tied=request.param, **FIGURES)


@pytest.fixture(scope="module")
def embedded(path: Path, folder: Path) -> EmbeddedLearnerEngine:
    engine = factory(folder, kind="embedded").learner(open_model("model.path", str(path)))
    assert isinstance(engine, EmbeddedLearnerEngine)
    return engine


@pytest.fixture(scope="module")
def learner(path: Path, folder: Path) -> Iterator[ServedLearnerEngine]:
    engine = factory(folder).learner(open_model("model.path", str(path)))
    assert isinstance(engine, ServedLearnerEngine)
    with closing(engine):
        yield engine


@pytest.fixture(scope="module")
def explorer_path(folder: Path) -> Path:
    return write_qwen3(folder / "explorer", layers=2, tied=True, **FIGURES)


@pytest.fixture(scope="module")
def explorer(explorer_path: Path, folder: Path) -> Iterator[ServedEngine]:
    engine = factory(folder, request_s=20).explorer(open_model("explorer.path", str(explorer_path)))
    assert isinstance(engine, ServedEngine)
    with closing(engine):
        yield engine


def weights(seed: int, path: Path) -> dict[str, torch.Tensor]:
    """Other weights of the same shapes."""
    tied = path.name.endswith("True")
    model = random_qwen3(seed=seed, num_hidden_layers=2, tie_word_embeddings=tied, initializer_range=0.1, **FIGURES)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def buckets(tensors: dict[str, torch.Tensor], size: int = 5) -> list[Bucket]:
    """Layers are cut anywhere: those of one come in several buckets."""
    names = list(tensors)
    return [{name: tensors[name] for name in names[at : at + size]} for at in range(0, len(names), size)]


def assert_agree(engine: RolloutEngine, other: RolloutEngine, params: SamplingParams) -> None:
    """Greedy tokens are the same, but for a tie within rounding; log-probs agree."""
    for mine, theirs in zip(engine.generate(REQUESTS, params), other.generate(REQUESTS, params), strict=True):
        assert np.array_equal(mine.token_ids, theirs.token_ids)
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=LOGPROB_BOUND)


@torch.no_grad()
def logprobs_of(
    engine: EmbeddedLearnerEngine, request: SampleRequest, completion: Completion, params: SamplingParams
) -> list[float]:
    """Of the completion's tokens, by transformers' own forward pass over prompt and response."""
    tokens, prompt = completion.token_ids.tolist(), list(request.prompt_token_ids)
    logits_TV = engine._model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].float()
    if params.presence_penalty:
        for place in range(len(tokens)):
            logits_TV[place, list(set(tokens[:place]))] -= params.presence_penalty
    logprobs_TV = sampling_logprobs(logits_TV, params)
    return [float(logprobs_TV[place, token]) for place, token in enumerate(tokens)]


def test_greedy_tokens_are_the_embedded_engines(learner: LearnerEngine, embedded: EmbeddedLearnerEngine) -> None:
    assert_agree(learner, embedded, GREEDY)


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        replace(PARAMS, temperature=0.7, top_p=0.9, top_k=20),
        replace(PARAMS, temperature=1.5, presence_penalty=1.5),
        replace(GREEDY, presence_penalty=0.5),
    ],
    ids=["plain", "filtered", "penalty", "greedy_penalty"],
)
def test_logprobs_are_of_what_was_sampled_from(
    learner: LearnerEngine, embedded: EmbeddedLearnerEngine, params: SamplingParams
) -> None:
    completions = learner.generate(REQUESTS, params)
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for request, completion in zip(REQUESTS, completions, strict=True):
        assert (completion.prompt_id, completion.sample_id) == (request.prompt_id, request.sample_id)
        assert completion.source is Source.LEARNER
        assert (completion.token_ids[-1] in STOPS) == (completion.finish_reason == "stop")
        assert not set(completion.token_ids[:-1].tolist()) & set(STOPS)
        assert completion.logprobs == pytest.approx(
            logprobs_of(embedded, request, completion, params), abs=LOGPROB_BOUND
        )


def test_a_seed_decides_its_sample(learner: LearnerEngine) -> None:
    once, again = (learner.generate(REQUESTS, PARAMS) for _ in range(2))
    assert [one.token_ids.tolist() for one in once] == [one.token_ids.tolist() for one in again]
    first = {tuple(one.token_ids.tolist()) for one in once if one.prompt_id == 0}
    assert len(first) > 4  # of 8 samples


def test_what_vllm_would_do_otherwise_is_refused(learner: LearnerEngine) -> None:
    with pytest.raises(ValueError, match=r"temperature 0\.001: vLLM samples at 0, and from 0\.01 on"):
        learner.generate(REQUESTS, replace(PARAMS, temperature=0.001))
    with pytest.raises(ValueError, match="exceeds the engine's 64 positions"):
        learner.generate(REQUESTS, replace(PARAMS, max_new_tokens=64))
    assert learner.generate([], PARAMS) == []


def counts_of_first_tokens(engine: RolloutEngine, samples: int, vocabulary: int) -> Sequence[int]:
    """How often each token comes first after one prompt."""
    prompt = REQUESTS[0].prompt_token_ids
    requests = [SampleRequest(0, sample, prompt, 7919 * sample + 1) for sample in range(samples)]
    completions = engine.generate(requests, replace(PARAMS, max_new_tokens=1))
    first = [int(completion.token_ids[0]) for completion in completions]
    return [first.count(token) for token in range(vocabulary)]


def assert_has_the_distribution(engine: RolloutEngine, model: EmbeddedLearnerEngine) -> None:
    """Chi-square of 6,000 samples, tokens expected less than 5 times together. It fails once in 1,000 seeds."""
    samples, vocabulary = 6000, FIGURES["vocab_size"]
    with torch.no_grad():
        logits_V = model._model(torch.tensor([REQUESTS[0].prompt_token_ids])).logits[0, -1].double()
    expected = logits_V.softmax(-1).numpy() * samples
    rare = expected < 5
    counted = np.array(counts_of_first_tokens(engine, samples, vocabulary))
    observed = [*counted[~rare], counted[rare].sum()]
    wanted = [*expected[~rare], expected[rare].sum()]
    pairs = [(one, other) for one, other in zip(observed, wanted, strict=True) if other > 0]
    assert len(pairs) > 30
    assert chisquare(*np.array(pairs).T).pvalue > 1e-3


def test_the_learner_samples_from_its_model(learner: LearnerEngine, embedded: EmbeddedLearnerEngine) -> None:
    for engine in (learner, embedded):
        assert_has_the_distribution(engine, embedded)


def test_the_explorer_samples_from_its_model(explorer: ServedEngine, explorer_path: Path, folder: Path) -> None:
    model = factory(folder, kind="embedded").learner(open_model("explorer.path", str(explorer_path)))
    assert isinstance(model, EmbeddedLearnerEngine)
    assert_agree(explorer, model, GREEDY)
    assert_has_the_distribution(explorer, model)


def test_a_refit_replaces_every_weight(
    learner: ServedLearnerEngine, embedded: EmbeddedLearnerEngine, path: Path
) -> None:
    before = learner.generate(REQUESTS, GREEDY)
    for version, seed in ((1, 5), (2, 6)):
        for engine in (learner, embedded):
            engine.update_weights(buckets(weights(seed, path)), version)
        assert_agree(learner, embedded, GREEDY)
        after = learner.generate(REQUESTS, GREEDY)
        assert {completion.weight_version for completion in after} == {version}
        assert [one.token_ids.tolist() for one in after] != [one.token_ids.tolist() for one in before]
    assert learner.last_refit is not None


def test_an_incomplete_update_is_refused_until_a_whole_one(
    learner: ServedLearnerEngine, embedded: EmbeddedLearnerEngine, path: Path
) -> None:
    tensors = weights(7, path)
    norm = "model.norm.weight"
    for wrong, message in (
        ([{norm: tensors[norm]}], "tensors are missing"),
        ([{norm: tensors[norm]}, {norm: tensors[norm]}], "came twice"),
        ([{"model.unknown": tensors[norm]}], "no tensor model.unknown"),
        ([{norm: tensors[norm][:3]}], "has shape"),
    ):
        with pytest.raises((ValueError, EngineError), match=message):
            learner.update_weights(iter(wrong), 8)
        with pytest.raises(EngineError, match="send all weights again"):
            learner.generate(REQUESTS, PARAMS)
    for engine in (learner, embedded):
        engine.update_weights(buckets(tensors), 9)
    assert_agree(learner, embedded, GREEDY)


def test_sleep_on_a_cpu_keeps_everything(learner: LearnerEngine) -> None:
    before = learner.generate(REQUESTS, GREEDY)
    learner.sleep()
    learner.resume()
    assert [one.token_ids.tolist() for one in learner.generate(REQUESTS, GREEDY)] == [
        one.token_ids.tolist() for one in before
    ]


@pytest.mark.parametrize("name", ["qwen2", "llama3", "yarn"])
def test_other_families(folder: Path, name: str) -> None:
    """Biases and stretched positions, loaded and refitted."""
    figures = {**FIGURES, "hidden_size": 128, "num_hidden_layers": 2}
    path, other = (write_variant(folder / f"{name}{seed}", name, seed=seed, **figures) for seed in (0, 5))
    model = open_model("model.path", str(path))
    embedded, engine = factory(folder, kind="embedded").learner(model), factory(folder).learner(model)
    with closing(engine):
        assert_agree(engine, embedded, GREEDY)
        renewed = load_file(other / "model.safetensors")
        for one in (engine, embedded):
            one.update_weights(buckets(renewed), 1)
        assert_agree(engine, embedded, GREEDY)


def family_of(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family_of(int(child)))]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_tensor_parallel_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TP 2: full tensors of a refit are cut by each worker, and no worker is left."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    path = write_qwen3(folder / "parallel_True", layers=2, tied=True, **FIGURES)
    model = open_model("model.path", str(path))
    embedded = factory(folder, kind="embedded").learner(model)
    engine = factory(folder, tensor_parallel_size=2).learner(model)
    assert isinstance(engine, ServedLearnerEngine)
    with closing(engine):
        assert_agree(engine, embedded, GREEDY)
        for one in (engine, embedded):
            one.update_weights(buckets(weights(3, path)), 1)
        assert_agree(engine, embedded, GREEDY)
        family = family_of(engine._connection._process._process.pid)
        assert len(family) >= 4  # supervisor, server, two workers
    assert all(gone(pid) for pid in family)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_lost_explorer_is_healed(
    explorer: ServedEngine, explorer_path: Path, folder: Path, signum: signal.Signals
) -> None:
    embedded = factory(folder, kind="embedded").explorer(open_model("explorer.path", str(explorer_path)))
    before, restarts = explorer.generate(REQUESTS, GREEDY), explorer.restarts
    assert explorer.weight_hash() == embedded.weight_hash()
    os.killpg(explorer._connection._process._process.pid, signum)
    after = explorer.generate(REQUESTS, GREEDY)
    assert explorer.restarts == restarts + 1
    assert [one.token_ids.tolist() for one in after] == [one.token_ids.tolist() for one in before]
    assert {completion.source for completion in after} == {Source.EXPLORER}
