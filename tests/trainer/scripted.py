"""A run whose actor, engines, grader and time follow a script. Trainer, loss, recorder and run directory are real."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import make_schedule
from s2l_nemo.config.schema import CheckpointConfig, LoggingConfig, ValidationConfig
from s2l_nemo.engines.protocol import LearnerEngine
from s2l_nemo.records.console import StepConsole
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import MetricsWriter
from s2l_nemo.rewards.grader import Grade, GradeItem
from s2l_nemo.trainer.diversity_filter import DiversityFilter
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.group_sampler import ExplorerRole, GroupSampler
from s2l_nemo.trainer.loop import Limits, Trainer
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.recorder import Recorder
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import Completion, FinishReason, Prompt, SampleRequest, SamplingParams, Source, TrainBatch
from tests.arrays import ids, lps
from tests.models.shapes import small_shape

GARBAGE = 77.0  # at padded positions, where no one must look
PAD = 99
RUN_SEED = 3
ONE_RANK = Ranks(0, (0,), (0,))
SAMPLING = SamplingParams(max_new_tokens=8, stop_token_ids=(2,), temperature=0.5)
ROLE = ExplorerRole("explorer", 1.0, SAMPLING)
VALID_SAMPLING = SamplingParams(max_new_tokens=8, stop_token_ids=(2,), temperature=0.25)


class ScriptedTime:
    """Seconds that pass only when a part of the script takes them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass(frozen=True)
class Answer:
    """What an engine says to a request. The first token is the grade: 0 wrong, 1 right, 9 a check that fails."""

    tokens: tuple[int, ...]
    logprob: float = -1.0  # of each token, to the engine
    finish: FinishReason = "stop"


Answers = Callable[[SampleRequest], Answer]


def right(_: SampleRequest) -> Answer:
    return Answer((1, 2))


class ScriptedEngine:
    """Answers by the script, in this process. `generate` takes `seconds`."""

    restarts: int | None = None
    last_refit = None

    def __init__(self, source: Source, answers: Answers, time: ScriptedTime, seconds: float) -> None:
        self.source, self.answers, self.time, self.seconds = source, answers, time, seconds
        self.asked: list[tuple[list[SampleRequest], SamplingParams]] = []
        self.weight_version = 0

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        self.asked.append((list(requests), params))
        self.time.passes(self.seconds)
        return [self._completion(request, self.answers(request)) for request in requests]

    def weight_hash(self) -> str:
        return f"hash of {self.source.name.lower()}"

    def sleep(self) -> None: ...
    def resume(self) -> None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...

    def _completion(self, request: SampleRequest, answer: Answer) -> Completion:
        return Completion(
            request.prompt_id,
            request.sample_id,
            self.source,
            ids(answer.tokens),
            lps([answer.logprob] * len(answer.tokens)),
            answer.finish,
            self.weight_version,
        )


class ScriptedLearnerEngine(ScriptedEngine):
    """Remembers the versions that it was given. A refit takes half a second."""

    def __init__(self, answers: Answers, time: ScriptedTime, seconds: float) -> None:
        super().__init__(Source.LEARNER, answers, time, seconds)
        self.versions: list[int] = []

    def update_weights(self, buckets: Iterable[dict[str, torch.Tensor]], version: int) -> None:
        assert [list(bucket) for bucket in buckets] == [["weight"]]
        self.time.passes(0.5)
        self.weight_version = version
        self.versions.append(version)


class ScriptedGrader:
    """Reads the grade from the response; see `Answer`. A batch takes a quarter of a second."""

    def __init__(self, time: ScriptedTime) -> None:
        self.time = time
        self.items: list[GradeItem] = []
        self.is_closed = False

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        self.time.passes(0.25)
        self.items += items
        return [self._grade(item.response.split()) for item in items]

    def close(self) -> None:
        self.is_closed = True

    def _grade(self, words: Sequence[str]) -> Grade:
        return Grade(None, None, "killed") if words[0] == "9" else Grade(float(words[0]), words[-1])


def decode(token_ids: Sequence[int]) -> str:
    return " ".join(map(str, token_ids))


RowScript = Callable[[int, int], float]  # (prompt id, sample id) -> the value of each of its response tokens


@dataclass
class ScriptedActor:
    """An actor whose log-probs are chosen by hand. The real loss turns them into sums."""

    time: ScriptedTime = field(default_factory=ScriptedTime)
    old: RowScript = lambda prompt, sample: -1.0  # log-prob before the updates of a step
    ref: RowScript = lambda prompt, sample: -1.0  # log-prob under the reference policy
    entropy: RowScript = lambda prompt, sample: 0.5
    ratio: Callable[[int, int, int], float] = lambda update, prompt, sample: 1.0  # pi / old; updates from 0
    grad_norms: Callable[[int], float] = lambda update: 1.0
    lrs: Callable[[int], float] = lambda update: 0.1
    rank: int = 0  # among the replicas
    replicas: int = 1
    elsewhere: Mapping[str, float] = field(default_factory=dict)  # what the other replicas add to sums, by name
    updates: int = 0
    calls: list[str] = field(default_factory=list)
    temperatures: set[float] = field(default_factory=set)
    batches: list[TrainBatch] = field(default_factory=list)  # those of `infer`
    mini_batches: list[TrainBatch] = field(default_factory=list)
    scales: list[LossScale] = field(default_factory=list)
    fails_to_save: bool = False
    finite_weights: Callable[[int], bool] = lambda updates: True  # after so many updates

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def data_parallel(self) -> tuple[int, int]:
        return self.rank, self.replicas

    def sum_over_replicas(self, values: Mapping[str, float]) -> dict[str, float]:
        return {name: value + self.elsewhere.get(name, 0.0) for name, value in values.items()}

    def prepare_for_inference(self) -> None:
        self.calls.append("prepare_for_inference")

    def infer(self, batch: TrainBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        self._called("infer", temperature, 0.125)
        self.batches.append(batch)
        return self._rows(batch, self.old), self._rows(batch, self.entropy)

    def get_init_policy_logprobs(self, batch: TrainBatch, temperature: float) -> torch.Tensor:
        self._called("get_init_policy_logprobs", temperature, 0.0625)
        return self._rows(batch, self.ref)

    def finish_inference(self) -> None:
        self.calls.append("finish_inference")

    def prepare_for_training(self) -> None:
        self.calls.append("prepare_for_training")

    def prepare_for_training_step(self) -> None:
        self.calls.append("prepare_for_training_step")

    def get_loss_and_metrics(
        self, batch: TrainBatch, loss: PolicyLoss, scale: LossScale, temperature: float
    ) -> dict[str, float]:
        self._called("get_loss_and_metrics", temperature, 0.25)
        self.mini_batches.append(batch)
        self.scales.append(scale)

        def policy(prompt: int, sample: int) -> float:
            return self.old(prompt, sample) + math.log(self.ratio(self.updates, prompt, sample))

        value, sums = loss(self._rows(batch, policy).requires_grad_(), batch, scale)
        totals = {name: total.item() for name, total in sums.items()} | {"loss_sum": value.item()}
        if batch.old_logprobs_BS is None:
            entropy = (self._rows(batch, self.entropy) * batch.mask_BS).sum().item()
            totals["entropy_sum"] = entropy + self.elsewhere.get("entropy_sum", 0.0)
        return totals

    def finish_training_step(self) -> None:
        self.calls.append("finish_training_step")

    def optimizer_step(self, loss: float) -> dict[str, float]:
        self.calls.append("optimizer_step")
        grad_norm, lr = self.grad_norms(self.updates), self.lrs(self.updates)
        self.updates += 1
        return {"grad_norm": grad_norm, "lr": lr, "skipped": float(not math.isfinite(loss + grad_norm))}

    def finish_training(self) -> None:
        self.calls.append("finish_training")

    def release_memory(self) -> None:
        self.calls.append("release_memory")

    def release_cache(self) -> None:
        self.calls.append("release_cache")

    def weights_are_finite(self) -> bool:
        return self.finite_weights(self.updates)

    def export_weights(self) -> Iterator[dict[str, torch.Tensor]]:
        self.calls.append("export_weights")
        yield {"weight": torch.zeros(1)}

    def save(self, folder: Path, trainer_state: dict[str, Any]) -> None:
        (folder / "weights").write_text("half of the weights")
        if self.fails_to_save:
            raise OSError("no space left")
        (folder / "state.json").write_text(json.dumps(trainer_state))

    def load(self, folder: Path) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        return state

    def save_nemo(self, path: Path) -> None:
        path.write_text("half of the weights")
        if self.fails_to_save:
            raise OSError("no space left")

    def save_hugging_face(self, path: Path) -> None:
        path.mkdir()

    def _called(self, name: str, temperature: float, seconds: float) -> None:
        self.calls.append(name)
        self.temperatures.add(temperature)
        self.time.passes(seconds)

    def _rows(self, batch: TrainBatch, script: RowScript) -> torch.Tensor:
        ids = zip(batch.prompt_id_B.tolist(), batch.sample_id_B.tolist(), strict=True)
        values_B1 = torch.tensor([[script(prompt, sample)] for prompt, sample in ids])
        return torch.where(batch.mask_BS.bool(), values_B1, GARBAGE)


def prompts(*ids: int) -> list[Prompt]:
    """A prompt of number n has n % 3 + 1 tokens."""
    return [Prompt(n, f"question {n}", f"answer {n}", tuple(range(10, 11 + n % 3))) for n in ids]


@dataclass
class Run:
    """A trainer and all parts of its script."""

    trainer: Trainer
    actor: ScriptedActor
    explorer: ScriptedEngine
    learner: ScriptedLearnerEngine
    grader: ScriptedGrader
    recorder: Recorder
    run_dir: RunDir
    output: io.StringIO
    time: ScriptedTime

    def lines(self) -> list[str]:
        """What the console has printed."""
        return [line.rstrip() for line in self.output.getvalue().splitlines()]

    def messages(self) -> list[str]:
        """The same without the lines of steps and their titles."""
        return [line for line in self.lines() if line and not line.split()[0].startswith(("step", *"0123456789"))]


def make_recorder(folder: Path, time: ScriptedTime, output: io.StringIO, **changes: Any) -> Recorder:
    """A recorder of rank 0 that writes into `folder` and prints to `output`."""
    run_dir = RunDir(folder)
    folder.mkdir(exist_ok=True)
    resume_step = changes.pop("resume_step", None)
    settings: dict[str, Any] = {
        "run_dir": run_dir,
        "checkpoint": CheckpointConfig(),
        "logging": LoggingConfig(),
        "identity": {"explorer_weight_hash": "e" * 64},
        "sources": ["learner", "explorer"],
        "decode": decode,
        "ranks": ONE_RANK,
        "checkpoint_bytes": 1000,
        "now": time,
    } | changes
    return Recorder(
        writer=MetricsWriter(run_dir, resume_step=resume_step),
        console=StepConsole(9, stream=output, width=1000),
        **settings,
    )


def make_run(
    folder: Path,
    stop: StopRequest,
    algorithm: AlgorithmConfig,
    *,
    train: Sequence[Prompt],
    valid: Sequence[Prompt] | None = None,
    validation: ValidationConfig | None = None,
    by_explorer: Answers = right,
    by_learner: Answers = right,
    actor: ScriptedActor | None = None,
    filtered: bool = False,
    sequence_multiple: int = 1,
    micro_batch_size: int = 1,
    step: int = 0,
    two_updates: bool = False,
    max_skipped: int = 3,
    progress: Progress | None = None,
    ranks: Ranks = ONE_RANK,
    replayed: LearnerEngine | None = None,
    **recorder: Any,
) -> Run:
    """A run as one rank sees it. The explorer takes 1.5 seconds to generate, the learner, or `replayed`, 0.5."""
    actor, output = actor or ScriptedActor(), io.StringIO()
    time = actor.time
    explorer = ScriptedEngine(Source.EXPLORER, by_explorer, time, 1.5)
    learner, grader = ScriptedLearnerEngine(by_learner, time, 0.5), ScriptedGrader(time)
    engines = Rollouts({1: explorer}, learner, actor, ranks, Grading(decode, grader))
    shapes = {int(source): small_shape() for source in Source}
    rollouts = engines if replayed is None else replace(engines, learner=replayed)
    progress = progress or Progress(step=step, position=step * algorithm.prompts_per_step)
    sampler = GroupSampler(algorithm, rollouts, train, SAMPLING, [ROLE], RUN_SEED, progress, shapes)
    records = make_recorder(folder, time, output, ranks=ranks, **recorder)
    trainer = Trainer(
        algorithm=algorithm,
        loss=PolicyLoss.of(algorithm),
        validation=validation or ValidationConfig(every=0, samples=1),
        checkpoint=records.checkpoint,
        limits=Limits(SAMPLING.max_new_tokens, PAD, sequence_multiple, micro_batch_size),
        run_seed=RUN_SEED,
        schedule=make_schedule(algorithm.schedule, algorithm.steps),
        sampler=sampler,
        valid_prompts=prompts(100, 101) if valid is None else valid,
        sampling=SAMPLING,
        valid_sampling=VALID_SAMPLING,
        actor=actor,
        shape=small_shape(),
        rollouts=rollouts,
        validator=engines,
        explorer_filter=DiversityFilter(rollouts, SAMPLING, RUN_SEED, progress, shapes) if filtered else None,
        explorer_ahead=False,
        two_updates=two_updates,
        max_skipped=max_skipped,
        diversity_groups=2,
        recorder=records,
        stop=stop,
        progress=progress,
        now=time,
    )
    return Run(trainer, actor, explorer, learner, grader, records, records.run_dir, output, time)


def assert_metrics(found: Mapping[str, float | int | None], expected: Mapping[str, float | None]) -> None:
    """The same keys, null at the same places, and numbers that agree to float32."""
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9)), key
