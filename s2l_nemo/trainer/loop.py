"""The training loop of S2L-PO, Algorithm 1 of the paper (arXiv 2605.30789). `Trainer.train_step` is one iteration.

    python recipes/train_s2l.py        # trains the tiny preset on this machine; --help lists all keys

A small frozen policy, the explorer, and the large policy that learns, the learner, answer every prompt in one group of
G candidates. Step i of T does this:

1. Take the next batch of P prompts.
2. The schedule gives the explorer's share: alpha = 1 - (i - 1) / (T_mix - 1) until step T_mix, then 0.
3. The explorer samples G_w = ceil(alpha G) candidates of every prompt, the learner G_s = G - G_w.
4. Grade all of them. A = (r - mean) / (std + eps) over the whole mixed group (Eq. 1).
5. Take U passes of optimizer steps over the mini-batches, which maximise min(ratio A, clip(ratio, 1 - low, 1 + high) A)
   - beta KL(pi || pi_ref) (Eq. 2). pi_ref is the learner before training.
6. Give the new weights to the learner's engine.

Where the defaults depart from the paper:

- Eq. 2 has one ratio for an answer, to the policy that sampled it. Here every token has a ratio of its own, to the
  learner before this step's updates, whoever sampled the token. So does the released code. `algorithm.importance`
  has the paper's denominator, and corrections.
- Eq. 2 is a mean over answers. Here it is a mean over the tokens of a mini-batch (`algorithm.aggregation`).
- KL is estimated on explorer tokens too, though the learner did not sample them (`algorithm.kl_on_explorer`).
- The explorer samples during training, with the sampling keys of the learner unless it has its own. The paper samples
  it ahead of time.
- T_mix = 1, where the formula divides by 0, is one step of the explorer alone. T_mix = 0 is plain GRPO.
- A group of equal rewards has advantage exactly 0. A check that fails is worth 0 (`algorithm.mask_failed`).
- An epoch's last prompts, too few for a batch, are left out, so that no batch holds a prompt twice (`algorithm.order`).

Who waits for whom. Time runs to the right, and a phase begins once all before it have ended:

    explorer engine   [ G_w of each prompt ]
    learner engine    [ G_s of each prompt    ]                                                  [ refit ]
    all ranks                                  [ exchange ][ rewards ][ advantages ]
    actor                                                                         [ log-probs ][ updates ]

Engines that are servers sample at the same time, and the exchange waits for the slower one. In it the completions of
a group go to the replica that trains on it, whose ranks then grade them. Embedded engines sample one
after the other. The next step waits for the refit, so the learner's engine never samples with older weights.
`trainer.rollouts` runs the engines' part.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.algorithm.batching import collate, groups_with_gradient, mini_batch_counts
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import ADVANTAGES, AlgorithmConfig, Rejected, made
from s2l_nemo.algorithm.overlong import overlong_penalty
from s2l_nemo.algorithm.schedule import Schedule, Split
from s2l_nemo.algorithm.sharing import balanced_replicas
from s2l_nemo.config.schema import CheckpointConfig, ValidationConfig
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.diversity_filter import DiversityFilter
from s2l_nemo.trainer.exchange import Place, StepGroups
from s2l_nemo.trainer.finite import check_skipped, check_weights
from s2l_nemo.trainer.grading import check_graded
from s2l_nemo.trainer.group_diversity import diversity_metrics
from s2l_nemo.trainer.group_metrics import group_metrics
from s2l_nemo.trainer.group_sampler import GroupSampler
from s2l_nemo.trainer.metrics import Metrics, outcome_of, refill_metrics, rollout_metrics, throughput, update_metrics
from s2l_nemo.trainer.parts import Learned, joined, parts_of
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.recorder import Recorder
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.trainer.spent import count_updates, rows_flops, totals
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.sums import StepSums
from s2l_nemo.trainer.time_limit import TIME_IS_UP, TimeLimit
from s2l_nemo.trainer.validation import Validation, validate, validation_metrics
from s2l_nemo.trainer.validation_sets import BenchmarkSet
from s2l_nemo.types import Prompt, SamplingParams, TrainBatch


@dataclass(frozen=True)
class Limits:
    """What shapes a batch."""

    max_response_length: int  # tokens
    pad_token_id: int
    sequence_multiple: int  # divides T: the tensor-parallel size, into which sequence parallelism cuts a row
    micro_batch_size: int  # rows


@dataclass(frozen=True)
class Update:
    """One optimizer step: the rows of this replica, and the counts by which their loss is divided."""

    rows: TrainBatch
    scale: LossScale
    dropped: int  # groups without a gradient that have no rows here, over all replicas
    flops: float  # of a forward pass over the rows of all replicas


@dataclass
class Trainer:
    """One run, on one rank.

    Every rank runs the same code. Each data-parallel replica gets and trains on groups of its own, and knows the
    figures of all.
    """

    algorithm: AlgorithmConfig
    loss: PolicyLoss
    validation: ValidationConfig
    checkpoint: CheckpointConfig
    limits: Limits
    run_seed: int
    schedule: Schedule
    sampler: GroupSampler
    valid_prompts: Sequence[Prompt]
    sampling: SamplingParams
    valid_sampling: SamplingParams
    actor: Actor
    shape: ModelShape  # of the learner
    rollouts: Rollouts
    validator: Rollouts  # has an engine of the learner also if `rollouts` has none: a replay
    explorer_filter: DiversityFilter | None
    explorer_ahead: bool  # explorers sample the next step while the actor trains
    two_updates: bool  # see `trainer.parts`
    max_skipped: int  # updates in a row, because loss or gradients were not finite
    diversity_groups: int  # whose diversity is measured at each step
    recorder: Recorder
    stop: StopRequest
    progress: Progress
    now: Callable[[], float] = time.perf_counter  # seconds
    limit: TimeLimit = field(default_factory=TimeLimit)
    valid_sets: Sequence[BenchmarkSet] = ()

    def fit(self) -> int:
        """Trains to the last step, or until a signal. Returns that signal, 0 if none came, or `TIME_IS_UP`.

        Validates before the first step, every `validation.every` steps and after the last one, also if that was done in
        a run that should have been longer. Saves every `checkpoint.every` steps, after the best validation so far if
        `checkpoint.best` asks for it, after the last step, after a signal, on request, and before `run.save_before`.
        """
        self.refit(self.version(self.step), self.step)
        if self.step == 0 and self.valid_prompts:
            started = self.now()
            self.recorder.validated(0, self.validate(), self.valid_prompts, self.valid_sets)
            self.limit.validation = self.now() - started
        while self.step < self.algorithm.steps:
            started = self.now()
            metrics, groups, advantages_PG = self.train_step(self.step + 1)
            trained = self.now()
            last = self.step == self.algorithm.steps
            validation = self.validate() if self.validates(self.step) else None
            metrics.update(
                validation_metrics(validation, {one.asked.name: one.asked.samples for one in self.valid_sets})
            )
            self.recorder.stepped(self.step, metrics, groups, advantages_PG, self.now() - started)
            self.limit.timed_step(self.now() - started, self.now() - trained if validation is not None else None)
            check_skipped(self.progress, self.max_skipped)
            if validation is not None:
                self.recorder.validated(self.step, validation, self.valid_prompts, self.valid_sets)
            received, asked = self.stop.agreed(), self.recorder.save_requested()
            late = not last and self.limit.reached(validates=self.validates(self.step + 1))
            best = validation is not None and self.recorder.is_best(self.step)
            if last or received or asked or best or late or self.step % self.checkpoint.every == 0:
                self.save()
            if (received or late) and not last:
                return received or TIME_IS_UP
        if self.valid_prompts and self.recorder.lacks_validation(self.step):
            self.recorder.validated(self.step, self.validate(), self.valid_prompts, self.valid_sets)
        return 0

    def validates(self, step: int) -> bool:
        """Whether a validation follows a step."""
        due = self.validation.every and step % self.validation.every == 0
        return bool(self.valid_prompts) and bool(due or step == self.algorithm.steps)

    def save(self) -> None:
        """Writes a checkpoint."""
        started = self.now()
        self.rollouts.sleep()  # after a validation, engines are where the actor's weights must go
        self.recorder.save(self.actor, self.progress)
        gc.collect()  # a save leaves configurations and tensors in circles
        self.limit.timed_save(self.now() - started)

    def train_step(self, step: int) -> tuple[Metrics, StepGroups, torch.Tensor]:
        """Iteration `step` of Algorithm 1, counted from 1. Returns its metrics, its groups and advantages_PG."""
        clock = Clock(self.now)
        split = self.split(step)
        prompts = self.sampler.take()
        first, *others = parts_of(split, two_updates=self.two_updates)
        version = self.version(step - 1)
        learned = self.learn(first, prompts, self.replicas, version, clock, last=not others)
        for other in others:
            place = self.sampler.where(learned.sampled.groups)
            learned = joined(learned, self.learn(other, prompts, place, version + 1, clock, last=True))
        self.progress.step = step
        groups, advantages_PG, sums = learned.sampled.groups, learned.advantages_PG, learned.sums
        metrics = {
            **rollout_metrics(split, groups, self.loss.explorers),
            **refill_metrics(learned.sampled),
            **group_metrics(groups, advantages_PG, self.loss.explorers),
            **diversity_metrics(self.rollouts.ranks, groups, self.diversity_groups, self.loss.explorers),
            **totals(self.progress, learned.sampled.asked, sums.total.tokens, clock),
            **update_metrics(sums),
            **throughput(clock, groups, sums.total.tokens),
            **clock.metrics(),
            **self.rollouts.metrics(),
            "group/dropped": learned.dropped,
            "lr": sums.lr,
        }
        return metrics, groups, advantages_PG

    def learn(
        self, split: Split, prompts: Sequence[int], place: Place, version: int, clock: Clock, *, last: bool
    ) -> Learned:
        """Samples and grades groups of these prompts, updates the learner on them, and gives its engine the weights.

        `place` says which replica trains on which group, `version` which weights the learner must have. `last`: nothing
        of the step comes after it.
        """
        step = split.step
        sampled = self.sampler.sample(prompts, split, place, version, clock)
        check_graded(f"step {step}", sampled.groups)
        if self.explorer_filter is not None:
            with clock("explorer_filter"):
                filtered = self.explorer_filter(sampled.groups, sampled.prompts, step)
                sampled = replace(sampled, groups=filtered)
        if last:
            self.progress.outcomes.append(outcome_of(sampled))
        if self.explorer_ahead and step < self.algorithm.steps:
            self.rollouts.sample_ahead(self.sampler.ahead(self.split(step + 1)))
        self.rollouts.sleep()
        advantages_PG = self.advantages(sampled.groups)
        updates = self.updates(self.batch_of_replica(sampled.groups, advantages_PG), split)
        with clock("logprobs"):
            updates, sums = self.with_logprobs(updates)
        of_updates = [(update.rows, update.flops) for update in updates]
        count_updates(self.progress, of_updates, self.algorithm.optimizer_passes)
        with clock("update"):
            sums = self.update(updates, sums)
        with clock("refit"):
            self.refit(self.version(step) if last else version + 1, step)
        return Learned(sampled, advantages_PG, sums, sum(update.dropped for update in updates))

    def version(self, step: int) -> int:
        """Of the learner's weights after a step: how often its engine may have been refitted."""
        return 2 * step if self.two_updates else step

    def refit(self, version: int, step: int) -> None:
        """Gives the learner's engine the weights that `step` has made. Raises UserError if they are not finite."""
        check_weights(self.actor, step)
        self.rollouts.refit(version)

    def split(self, step: int) -> Split:
        """Who samples how many of each group at a step."""
        return self.schedule(step, self.algorithm.group_size, self.progress.outcomes)

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    def replicas(self, tokens_P: Sequence[int]) -> list[int]:
        """The replica that trains on each group. All have about as many tokens in every optimizer step."""
        _, replicas = self.actor.data_parallel()
        return balanced_replicas(tokens_P, replicas, self.mini_batch_prompts())

    def advantages(self, groups: StepGroups) -> torch.Tensor:
        """advantages_PG over each whole group, from rewards less the penalty for length.

        Explorer and learner stand together unless `adv_norm` parts them.
        """
        penalty_PG = overlong_penalty(
            groups.length_PG,
            max_response_length=self.limits.max_response_length,
            buffer=self.algorithm.overlong_buffer,
            penalty=self.algorithm.overlong_penalty,
        )
        advantage = made(ADVANTAGES[self.algorithm.advantage], self.algorithm)
        return advantage(groups.reward_PG + penalty_PG, groups.source_PG, groups.kept_PG).float()

    def mini_batch_prompts(self) -> int:
        """Prompts of one optimizer step, over all replicas."""
        return self.algorithm.mini_batch_prompts or self.algorithm.prompts_per_step

    def batch_of_replica(self, groups: StepGroups, advantages_PG: torch.Tensor) -> TrainBatch:
        """The rows of this replica, those of the first mini-batch first. No group is divided between replicas."""
        return collate(
            list(groups.own.values()),
            advantages_PG[list(groups.own)],
            pad_token_id=self.limits.pad_token_id,
            multiple_of=self.limits.sequence_multiple,
            mask_truncated=self.algorithm.mask_truncated,
        ).to(self.actor.device)

    def updates(self, batch: TrainBatch, split: Split) -> list[Update]:
        """The optimizer steps of one pass. Each loss is divided by the counts of its mini-batch on all replicas.

        With `drop_zero_variance`, groups whose advantages are all 0 have no rows. They still count in the division, so
        the gradient of the policy term is the same without them.
        """
        _, replicas = self.actor.data_parallel()
        size = split.explorer + split.learner
        mini_batches = batch.split(self.mini_batch_prompts() * size // replicas)
        if self.two_updates and split.explorer and self.algorithm.explorer_mini_batch is not None:
            mini_batches = batch.chunks(self.algorithm.explorer_mini_batch // replicas)
        updates = []
        for mini_batch in mini_batches:
            tokens, sequences = mini_batch_counts(mini_batch)
            rows = mini_batch
            if self.algorithm.drop_zero_variance:
                advantages_PG = mini_batch.advantages_B.view(-1, size)
                kept = groups_with_gradient(advantages_PG, self.limits.micro_batch_size)
                rows = mini_batch.select([group * size + row for group in kept for row in range(size)])
            dropped = (len(mini_batch) - len(rows)) // size
            mine = {"tokens": tokens, "sequences": sequences, "dropped": dropped, "flops": rows_flops(self.shape, rows)}
            counts = self.actor.sum_over_replicas(mine)
            scale = LossScale(int(counts["tokens"]), int(counts["sequences"]), self.limits.max_response_length)
            updates.append(Update(rows, scale, int(counts["dropped"]), counts["flops"]))
        return updates

    def with_logprobs(self, updates: list[Update]) -> tuple[list[Update], StepSums]:
        """Adds the log-probs that the updates do not compute themselves.

        Those are the reference policy's, unless `kl_coef` is 0, and those of the learner before the step's updates. The
        first update needs no old ones in a single pass: it finds them in its own forward pass. With `rejected=drop` it
        does need them, and each loss is then divided by the counts of accepted tokens on all replicas.

        Returns also sums that hold the entropy of the rows that have old log-probs.
        """
        temperature, sums = self.sampling.temperature, StepSums()
        drops = self.algorithm.rejected is Rejected.drop
        first = 1 if self.algorithm.optimizer_passes == 1 and not drops else 0
        old: list[torch.Tensor | None] = [None] * len(updates)
        ref: list[torch.Tensor | None] = [None] * len(updates)
        sizes = [len(update.rows) for update in updates]
        if not updates[first:] and not self.algorithm.kl_coef:
            return updates, sums
        self.actor.prepare_for_inference()
        if updates[first:]:
            ahead = TrainBatch.cat([update.rows for update in updates[first:]])
            old_BS, entropy_BS = self.actor.infer(ahead, temperature)
            old[first:] = old_BS.split(sizes[first:])
            local = {"entropy": (entropy_BS * ahead.mask_BS).sum().item(), "tokens": ahead.mask_BS.sum().item()}
            totals = self.actor.sum_over_replicas(local)
            sums = StepSums(totals["entropy"], totals["tokens"])
        if self.algorithm.kl_coef:
            whole = TrainBatch.cat([update.rows for update in updates])
            ref = list(self.actor.get_init_policy_logprobs(whole, temperature).split(sizes))
        self.actor.finish_inference()
        rows = [update.rows.with_logprobs(*its) for update, *its in zip(updates, old, ref, strict=True)]
        updates = [replace(update, rows=its) for update, its in zip(updates, rows, strict=True)]
        return [self.divided_by_accepted(update) for update in updates] if drops else updates, sums

    def divided_by_accepted(self, update: Update) -> Update:
        """The update with the counts of accepted tokens, over all replicas. Its rows must have old log-probs."""
        tokens, sequences = self.loss.counts(update.rows)
        counts = self.actor.sum_over_replicas({"accepted_tokens": tokens, "accepted_sequences": sequences})
        accepted = replace(
            update.scale, tokens=int(counts["accepted_tokens"]), sequences=int(counts["accepted_sequences"])
        )
        return replace(update, scale=accepted)

    def update(self, updates: Sequence[Update], sums: StepSums) -> StepSums:
        """Takes U passes of the optimizer steps. Returns `sums` with those of all of them.

        An update whose loss or gradients are not finite is skipped, on all ranks.
        """
        temperature = self.sampling.temperature
        self.actor.prepare_for_training()
        for _ in range(self.algorithm.optimizer_passes):
            for update in updates:
                self.actor.prepare_for_training_step()
                of_loss = self.actor.get_loss_and_metrics(update.rows, self.loss, update.scale, temperature)
                self.actor.finish_training_step()
                stepped = self.actor.optimizer_step(of_loss["loss_sum"])
                self.progress.skipped = self.progress.skipped + 1 if stepped["skipped"] else 0
                sums = sums.plus(of_loss, stepped)
        self.actor.finish_training()
        return sums

    def validate(self) -> Validation:
        """Rewards of the held-out prompts, and of the benchmarks besides, with the learner's present weights.

        In a replay the engine gets the weights for it, and then sleeps if it can.
        """
        replays = self.validator is not self.rollouts
        if replays:
            self.validator.refit(self.rollouts.version)
        own = validate(
            self.validator,
            self.valid_prompts,
            samples=self.validation.samples,
            params=self.valid_sampling,
            run_seed=self.run_seed,
        )
        found = replace(own, sets={one.asked.name: self._validate_set(one) for one in self.valid_sets})
        if replays:
            self.validator.sleep()
        return found

    def _validate_set(self, one: BenchmarkSet) -> Validation:
        return validate(
            self.validator,
            one.asked.prompts,
            samples=one.asked.samples,
            params=one.asked.params,
            run_seed=self.run_seed,
            grading=one.grading,
        )

    def close(self) -> None:
        """Ends the grader's processes, and the servers of this rank."""
        self.rollouts.close()
        if self.validator is not self.rollouts:
            self.validator.close()
        for one in self.valid_sets:
            one.grading.close()
