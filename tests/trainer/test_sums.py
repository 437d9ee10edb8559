"""`StepSums` over two updates, by hand."""

from __future__ import annotations

import pytest

from s2l_nemo.trainer.sums import StepSums, TokenSums

WEIGHTS = ("weight_sum", "weight_square_sum", "sampler_kl_sum")


def of_loss(scale: float, *, kl: bool) -> dict[str, float]:
    """Sums as `PolicyLoss` names them: each of another size."""
    sums = {"loss_sum": 100 * scale}
    names = ["tokens", "clipped", "ratio_sum", "logprob_diff_sum", "kl_sum", *WEIGHTS, "rejected"]
    for index, name in enumerate(names, start=1):
        if name == "kl_sum" and not kl:
            continue
        sums |= {name: 10 * index * scale, f"{name}_explorer": 4 * index * scale, f"{name}_learner": 6 * index * scale}
    return sums


def test_two_updates_add_up_and_the_last_rate_stays() -> None:
    sums = StepSums(entropy=7.0, entropy_tokens=14.0)
    sums = sums.plus(of_loss(1.0, kl=True), {"grad_norm": 2.0, "lr": 0.5, "skipped": 0.0})
    sums = sums.plus(of_loss(0.5, kl=True), {"grad_norm": 4.0, "lr": 0.25, "skipped": 0.0})
    assert sums == StepSums(
        entropy=7.0,
        entropy_tokens=14.0,
        updates=2,
        loss=150.0,
        grad_norm=6.0,
        lr=0.25,
        total=TokenSums(
            tokens=15.0,
            clipped=30.0,
            ratio=45.0,
            logprob_diff=60.0,
            kl=75.0,
            weight=90.0,
            weight_square=105.0,
            sampler_kl=120.0,
            rejected=135.0,
        ),
        by_source={
            "learner": TokenSums(
                tokens=9.0,
                clipped=18.0,
                ratio=27.0,
                logprob_diff=36.0,
                kl=45.0,
                weight=54.0,
                weight_square=63.0,
                sampler_kl=72.0,
                rejected=81.0,
            ),
            "explorer": TokenSums(
                tokens=6.0,
                clipped=12.0,
                ratio=18.0,
                logprob_diff=24.0,
                kl=30.0,
                weight=36.0,
                weight_square=42.0,
                sampler_kl=48.0,
                rejected=54.0,
            ),
        },
    )


def test_an_update_that_nothing_came_before_brings_its_entropy() -> None:
    sums = StepSums().plus(of_loss(1.0, kl=False) | {"entropy_sum": 5.0}, {"grad_norm": 2.0, "lr": 0.5, "skipped": 0.0})
    sums = sums.plus(of_loss(2.0, kl=False), {"grad_norm": 2.0, "lr": 0.5, "skipped": 0.0})
    assert (sums.entropy, sums.entropy_tokens, sums.total.tokens) == (5.0, 10.0, 30.0)


def test_without_a_reference_policy_there_is_no_kl() -> None:
    sums = StepSums(0.0, 0.0).plus(of_loss(1.0, kl=False), {"grad_norm": 2.0, "lr": 0.5, "skipped": 0.0})
    assert sums.total == TokenSums(
        10.0, 20.0, 30.0, 40.0, None, weight=60.0, weight_square=70.0, sampler_kl=80.0, rejected=90.0
    )
    assert {own.kl for own in sums.by_source.values()} == {None}


def test_before_the_first_update_all_is_nothing() -> None:
    sums = StepSums(1.0, 2.0)
    assert (sums.updates, sums.loss, sums.grad_norm, sums.lr) == (0, 0.0, 0.0, 0.0)
    assert sums.total == TokenSums(0.0, 0.0, 0.0, 0.0, None)
    assert sums.by_source == {}
    assert sums.of("explorer") == TokenSums()


@pytest.mark.parametrize("missing", ["tokens", "clipped_explorer", "ratio_sum_learner", "logprob_diff_sum", "loss_sum"])
def test_a_missing_sum_is_an_error(missing: str) -> None:
    sums = of_loss(1.0, kl=True)
    del sums[missing]
    with pytest.raises(KeyError, match=missing):
        StepSums(0.0, 0.0).plus(sums, {"grad_norm": 2.0, "lr": 0.5, "skipped": 0.0})


def test_the_effective_sample_size_of_equal_weights_is_the_number_of_tokens() -> None:
    assert TokenSums(tokens=4.0, weight=8.0, weight_square=16.0).sample_size == 1.0
    # weights 3, 1, 0, 0: (3 + 1)^2 / (4 * (9 + 1))
    assert TokenSums(tokens=4.0, weight=4.0, weight_square=10.0).sample_size == 0.4
    assert TokenSums().sample_size is None
