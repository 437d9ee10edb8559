"""The training loop of S2L-PO (Algorithm 1). `train_step` reads top to bottom and is the whole algorithm."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.algorithm.advantages import group_advantages
from s2l_nemo.algorithm.batching import collate, mini_batch_counts, shard_groups
from s2l_nemo.algorithm.groups import assemble_groups, mixed_requests
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.order import take
from s2l_nemo.algorithm.schedule import Schedule
from s2l_nemo.config.schema import CheckpointConfig, ValidationConfig
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.diversity_filter import DiversityFilter
from s2l_nemo.trainer.metrics import Metrics, rollout_metrics, throughput, update_metrics
from s2l_nemo.trainer.recorder import Recorder
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.validation import Validation, validate, validation_metrics
from s2l_nemo.types import Group, Prompt, SamplingParams, TrainBatch


@dataclass(frozen=True)
class Limits:
    """Sizes of a batch: tokens of a response, rows of padding, and who pads."""

    max_response_length: int
    pad_token_id: int
    sequence_multiple: int  # the tensor-parallel size: sequence parallelism cuts T by it


@dataclass
class Trainer:
    """One run on one rank. All ranks run the same code on the same groups; replicas train on different ones."""

    algorithm: AlgorithmConfig
    validation: ValidationConfig
    checkpoint: CheckpointConfig
    limits: Limits
    run_seed: int
    schedule: Schedule
    train_prompts: Sequence[Prompt]
    valid_prompts: Sequence[Prompt]
    sampling: SamplingParams
    valid_sampling: SamplingParams
    actor: Actor
    rollouts: Rollouts
    explorer_filter: DiversityFilter | None
    recorder: Recorder
    stop: StopRequest
    step: int = 0  # steps done

    def fit(self) -> int:
        """Trains to the last step, or until a signal; returns that signal, 0 for none."""
        self.rollouts.refit(self.step)
        if self.step == 0:
            self.recorder.validated(0, self.validate(), self.valid_prompts)
        while self.step < self.algorithm.steps:
            started = time.perf_counter()
            metrics, groups, advantages_PG = self.train_step(self.step + 1)
            self.step += 1
            last = self.step == self.algorithm.steps
            validates = last or (self.validation.every and self.step % self.validation.every == 0)
            validation = self.validate() if validates else None
            metrics.update(validation_metrics(validation))
            self.recorder.stepped(self.step, metrics, groups, advantages_PG, time.perf_counter() - started)
            if validation is not None:
                self.recorder.validated(self.step, validation, self.valid_prompts)
            received = self.stop.agreed()
            if last or received or self.step % self.checkpoint.every == 0:
                self.recorder.save(self.actor, self.step)
            if received and not last:
                return received
        return 0

    def train_step(self, step: int) -> tuple[Metrics, list[Group], torch.Tensor]:
        """Samples mixed groups, grades them, updates the actor and then the learner's engine."""
        clock = Clock()
        config = self.algorithm
        split = self.schedule(step, config.group_size)
        prompts = self.next_prompts(step)
        by_id = {prompt.prompt_id: prompt for prompt in prompts}
        for_explorer, for_learner = mixed_requests(
            prompts, explorer=split.explorer, learner=split.learner, step=step, run_seed=self.run_seed
        )
        with clock("rollout"):
            completions = self.rollouts.sample(for_explorer, for_learner, self.sampling, clock)
        with clock("reward"):
            sampler = self.rollouts.sampler
            graded = sampler.exchange(sampler.grade(completions, by_id))
        groups = assemble_groups(prompts, graded, group_size=config.group_size, learner_version=step - 1)
        if self.explorer_filter is not None:
            with clock("explorer_filter"):
                groups = self.explorer_filter(groups, step)
        self.rollouts.sleep()
        advantages_PG = self.advantages(groups)
        batch = self.batch_of_replica(groups, advantages_PG)
        with clock("logprobs"):
            batch, sums = self.with_logprobs(batch)
        with clock("update"):
            sums.update(self.update(batch))
        with clock("refit"):
            self.rollouts.refit(step)
        metrics = {
            **rollout_metrics(split, groups),
            **update_metrics(sums, sums["updates"]),
            **throughput(clock, groups, sums["tokens"]),
            **clock.metrics(),
            **self.rollouts.metrics(),
            "lr": sums["lr"],
        }
        return metrics, groups, advantages_PG

    def next_prompts(self, step: int) -> list[Prompt]:
        """The P prompts of a step: a pure function of the run's seed and the step, so a resumed run goes on exactly."""
        size = self.algorithm.prompts_per_step
        order = take((step - 1) * size, size, len(self.train_prompts), self.run_seed)
        return [self.train_prompts[index] for index in order]

    def advantages(self, groups: Sequence[Group]) -> torch.Tensor:
        """advantages_PG over each whole group, explorer and learner together unless `adv_norm` says otherwise."""
        return group_advantages(
            torch.tensor([group.rewards_G() for group in groups]),
            torch.tensor([[completion.source for completion in group.completions] for group in groups]),
            torch.tensor([group.kept_G() for group in groups]),
            std=self.algorithm.adv_std,
            baseline=self.algorithm.adv_baseline,
            norm=self.algorithm.adv_norm,
            eps=self.algorithm.adv_eps,
        )

    def mini_batch_prompts(self) -> int:
        return self.algorithm.mini_batch_prompts or self.algorithm.prompts_per_step

    def batch_of_replica(self, groups: list[Group], advantages_PG: torch.Tensor) -> TrainBatch:
        """The rows of this data-parallel rank, mini-batch after mini-batch; a group is never divided."""
        rank, size = self.actor.data_parallel()
        per_update = self.mini_batch_prompts()
        mine: list[int] = []
        for start in range(0, len(groups), per_update):
            mine += shard_groups(range(start, start + per_update), rank, size)
        return collate(
            [groups[p] for p in mine],
            advantages_PG[mine],
            pad_token_id=self.limits.pad_token_id,
            multiple_of=self.limits.sequence_multiple,
            mask_truncated=self.algorithm.mask_truncated,
        ).to(self.actor.device)

    def with_logprobs(self, batch: TrainBatch) -> tuple[TrainBatch, dict[str, float]]:
        """Adds log-probs of the learner before the update and of the reference policy; sums up the entropy."""
        temperature = self.sampling.temperature
        self.actor.prepare_for_inference()
        old_BS, entropy_BS = self.actor.infer(batch, temperature)
        ref_BS = self.actor.get_init_policy_logprobs(batch, temperature) if self.algorithm.kl_coef else None
        self.actor.finish_inference()
        local = {"entropy_sum": (entropy_BS * batch.mask_BS).sum().item(), "entropy_tokens": batch.mask_BS.sum().item()}
        return batch.with_logprobs(old_BS, ref_BS), self.actor.sum_over_replicas(local)

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """U passes of optimizer steps over the mini-batches. Returns sums over them, their number and the last `lr`."""
        _, replicas = self.actor.data_parallel()
        rows = self.mini_batch_prompts() * self.algorithm.group_size // replicas
        loss = PolicyLoss.of(self.algorithm)
        sums: Counter[str] = Counter()
        self.actor.prepare_for_training()
        for _ in range(self.algorithm.optimizer_passes):
            for mini_batch in batch.split(rows):
                scale = self.scale(mini_batch)
                self.actor.prepare_for_training_step()
                sums.update(self.actor.get_loss_and_metrics(mini_batch, loss, scale, self.sampling.temperature))
                self.actor.finish_training_step()
                stepped = self.actor.optimizer_step()
                sums.update(updates=1, grad_norm=stepped["grad_norm"])  # type: ignore[call-overload]
        self.actor.finish_training()
        return {**sums, "lr": stepped["lr"]}

    def scale(self, mini_batch: TrainBatch) -> LossScale:
        """Counts of the mini-batch over all replicas, by which its loss is divided."""
        tokens, sequences = mini_batch_counts(mini_batch)
        counts = self.actor.sum_over_replicas({"tokens": tokens, "sequences": sequences})
        return LossScale(int(counts["tokens"]), int(counts["sequences"]), self.limits.max_response_length)

    def validate(self) -> Validation:
        return validate(
            self.rollouts,
            self.valid_prompts,
            samples=self.validation.samples,
            params=self.valid_sampling,
            run_seed=self.run_seed,
        )
