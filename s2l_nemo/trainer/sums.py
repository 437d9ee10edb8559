"""What the updates of one step add up to. Sums are divided once, at the end of the step, so no average is averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace


@dataclass(frozen=True)
class TokenSums:
    """Sums over response tokens, as `PolicyLoss` gives them."""

    tokens: float = 0.0
    clipped: float = 0.0  # tokens whose ratio a clip stopped
    ratio: float = 0.0
    logprob_diff: float = 0.0  # |old - sampler|
    kl: float | None = None  # None: there is no reference policy
    weight: float = 0.0  # of w = old / sampler
    weight_square: float = 0.0
    sampler_kl: float = 0.0  # of log(1 / w)
    rejected: float = 0.0  # tokens that the importance rule did not accept
    gradient: float | None = None  # of |d loss / d log-prob|; None: the loss had no gradient

    def and_then(self, other: TokenSums) -> TokenSums:
        """With those of another part of the step."""
        values = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return TokenSums(**{name: a if b is None else b if a is None else a + b for name, (a, b) in values.items()})

    @property
    def sample_size(self) -> float | None:
        """Effective sample size of the weights w over the number of tokens: (sum w)^2 / (n sum w^2), from 0 to 1.

        Kong, "A note on importance sampling using standardized weights", 1992.
        """
        return self.weight**2 / (self.tokens * self.weight_square) if self.weight_square else None

    def plus(self, sums: Mapping[str, float], suffix: str = "") -> TokenSums:
        """With the sums of one more mini-batch. `suffix` chooses those of one source, as in `tokens_explorer`."""

        def summed(before: float | None, name: str) -> float | None:
            more = sums.get(f"{name}{suffix}")
            return before if more is None else (before or 0.0) + more

        return TokenSums(
            tokens=self.tokens + sums[f"tokens{suffix}"],
            clipped=self.clipped + sums[f"clipped{suffix}"],
            ratio=self.ratio + sums[f"ratio_sum{suffix}"],
            logprob_diff=self.logprob_diff + sums[f"logprob_diff_sum{suffix}"],
            kl=summed(self.kl, "kl_sum"),
            weight=self.weight + sums[f"weight_sum{suffix}"],
            weight_square=self.weight_square + sums[f"weight_square_sum{suffix}"],
            sampler_kl=self.sampler_kl + sums[f"sampler_kl_sum{suffix}"],
            rejected=self.rejected + sums[f"rejected{suffix}"],
            gradient=summed(self.gradient, "gradient_sum"),
        )


@dataclass(frozen=True)
class StepSums:
    """Sums over all mini-batches and passes of one step, and over all ranks.

    The entropy is that of the learner before the step's updates. It counts every response token once, `total` and
    `by_source` count it once a pass.
    """

    entropy: float = 0.0  # nats, summed over `entropy_tokens`
    entropy_tokens: float = 0.0
    updates: int = 0  # optimizer steps
    skipped: int = 0  # optimizer steps not taken, because something was not finite; they are in no other sum
    loss: float = 0.0  # summed over updates
    grad_norm: float = 0.0  # before clipping, summed over updates
    lr: float = 0.0  # of the last update
    total: TokenSums = field(default_factory=TokenSums)
    by_source: Mapping[str, TokenSums] = field(default_factory=dict)  # by the suffix of the sums

    def of(self, name: str) -> TokenSums:
        """Those of one source: learner, explorer, or the name of one of several explorers."""
        return self.by_source.get(name, TokenSums())

    def and_then(self, other: StepSums) -> StepSums:
        """With those of the part of the step that came after."""
        return StepSums(
            entropy=self.entropy + other.entropy,
            entropy_tokens=self.entropy_tokens + other.entropy_tokens,
            updates=self.updates + other.updates,
            skipped=self.skipped + other.skipped,
            loss=self.loss + other.loss,
            grad_norm=self.grad_norm + other.grad_norm,
            lr=other.lr,
            total=self.total.and_then(other.total),
            by_source={name: self.of(name).and_then(other.of(name)) for name in {**self.by_source, **other.by_source}},
        )

    def plus(self, sums: Mapping[str, float], stepped: Mapping[str, float]) -> StepSums:
        """With one more update.

        `sums` are those of `Actor.get_loss_and_metrics`, with the entropy if nothing was updated before. `stepped`
        holds what `Actor.optimizer_step` returns.
        """
        if stepped["skipped"]:
            return replace(self, skipped=self.skipped + 1, lr=stepped["lr"])
        has_entropy = "entropy_sum" in sums
        return replace(
            self,
            entropy=self.entropy + (sums["entropy_sum"] if has_entropy else 0.0),
            entropy_tokens=self.entropy_tokens + (sums["tokens"] if has_entropy else 0.0),
            updates=self.updates + 1,
            loss=self.loss + sums["loss_sum"],
            grad_norm=self.grad_norm + stepped["grad_norm"],
            lr=stepped["lr"],
            total=self.total.plus(sums),
            by_source={name: self.of(name).plus(sums, f"_{name}") for name in _sources(sums)},
        )


def _sources(sums: Mapping[str, float]) -> list[str]:
    return [name.removeprefix("tokens_") for name in sums if name.startswith("tokens_")]
