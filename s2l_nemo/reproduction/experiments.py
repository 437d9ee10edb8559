"""The experiments of the paper: which table or figure, how they differ from S2L-PO, what is evaluated after them.

An experiment is a preset of conf/experiment. What a preset says is not repeated here.

At toy scale a run has three times the paper's 16 steps, T_mix 8 and 5, and its G 16. `make reproduce` makes 8 x 3 runs
for the claims and one of each other experiment. docs/reproduce.md has its minutes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from s2l_nemo.config.reproduction import Scale
from s2l_nemo.errors import UserError

CLAIM_SEEDS = 3  # runs of an experiment on which the main claims rest


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a finished run, by a preset of conf/evaluate. `steps`: all checkpoints, or only the last one."""

    preset: str
    all_steps: bool


@dataclass(frozen=True)
class Experiment:
    """One training run of the paper, repeated with several seeds; with `models`, its two models before training.

    `shows` is its place in the paper. `preset` None is S2L-PO itself, as the scale's preset has it. `toy_keys` and
    `paper_keys` come on top of the preset.
    """

    name: str
    shows: str
    preset: str | None
    toy_keys: tuple[str, ...] = ()
    paper_keys: tuple[str, ...] = ()
    seeds: int = 1
    scales: tuple[Scale, ...] = (Scale.toy, Scale.paper)
    evaluations: tuple[Evaluation, ...] = ()  # at paper scale; a toy run validates itself on held-out prompts
    models: bool = False
    stored: bool = False


STEP_CURVE = Evaluation("step_curve", all_steps=True)  # Figures 3 to 7
TABLE_1 = Evaluation("table_1", all_steps=False)
TABLE_2 = Evaluation("table_2", all_steps=False)

# The preset of each scale, and what every run there has besides its experiment.
CONFIG_NAMES = {Scale.toy: "train_s2l", Scale.paper: "paper"}
SCALE_KEYS: dict[Scale, tuple[str, ...]] = {
    # With lr 1e-4 GRPO gains 5 points of pass@1 in 16 steps and 11 in 48. Five validations show the curve.
    Scale.toy: (
        "algorithm.steps=48",
        "validation.every=12",
        "validation.prompts=256",
        "validation.samples=4",
        "validation.temperature=1.0",
        "checkpoint.every=12",
        "checkpoint.keep=1",
        "run.save_nemo=false",
    ),
    Scale.paper: (),
}
_PAPER_ONLY = (Scale.paper,)

EXPERIMENTS = (
    Experiment(
        "s2l", "Tables 1, 2 and 4; Figures 3 to 7", None, seeds=CLAIM_SEEDS, evaluations=(STEP_CURVE, TABLE_1, TABLE_2)
    ),
    Experiment(
        "grpo", "Tables 1, 2 and 4; Figures 3 to 5", "grpo", seeds=CLAIM_SEEDS,
        evaluations=(STEP_CURVE, TABLE_1, TABLE_2),
    ),
    Experiment("high_temperature", "Figure 3c", "high_temperature", seeds=CLAIM_SEEDS, evaluations=(STEP_CURVE,)),
    Experiment("small_only", "Figure 5", "small_only", seeds=CLAIM_SEEDS, evaluations=(STEP_CURVE,)),
    Experiment("abrupt_switch", "Figure 6", "abrupt_switch", seeds=CLAIM_SEEDS, evaluations=(STEP_CURVE,)),
    Experiment(
        "t_mix_5", "Figure 7", "t_mix_5", toy_keys=("algorithm.schedule.t_mix=15",), seeds=CLAIM_SEEDS,
        evaluations=(STEP_CURVE,),
    ),
    # In this pair the smaller model overtakes the larger one "once k >= 32" (Section 1).
    Experiment("figure_2", "Figure 2", None, paper_keys=("family=qwen3_4b_to_8b",), models=True),
    Experiment(
        "without_diversity_constant_g", "Table 4", "without_diversity_constant_g", evaluations=(STEP_CURVE, TABLE_1),
        stored=True,
    ),
    Experiment(
        "without_diversity", "Table 4, with groups that shrink", "without_diversity", evaluations=(STEP_CURVE, TABLE_1)
    ),
    # The released S2L-PO makes 20 times as many optimizer steps as its GRPO. With the preset's one update a step,
    # S2L-PO and `grpo` make as many anyway.
    Experiment(
        "released_8b", "the released code's S2L-PO", "released_8b", seeds=CLAIM_SEEDS,
        # a quarter of the steps, as there
        toy_keys=("algorithm.schedule.t_mix=12",), evaluations=(STEP_CURVE,), stored=True,
    ),
    Experiment(
        "released_grpo_step_matched", "not in the paper: the control that it lacks", "released_grpo_step_matched",
        seeds=CLAIM_SEEDS, evaluations=(STEP_CURVE,),
    ),
    Experiment("released_grpo", "the released code's GRPO", "released_grpo", evaluations=(STEP_CURVE,)),
    Experiment(
        "s2l_4b_to_8b", "Table 2", None, paper_keys=("family=qwen3_4b_to_8b",), scales=_PAPER_ONLY,
        evaluations=(TABLE_1, TABLE_2),
    ),
    Experiment(
        "s2l_4b_to_14b", "Tables 1 and 2", None, paper_keys=("family=qwen3_4b_to_14b",), scales=_PAPER_ONLY,
        evaluations=(TABLE_1, TABLE_2),
    ),
    Experiment(
        "grpo_14b", "Tables 1 and 2", "grpo", paper_keys=("family=qwen3_4b_to_14b",), scales=_PAPER_ONLY,
        evaluations=(TABLE_1, TABLE_2),
    ),
    Experiment(
        "s2l_internlm", "Table 1", None, paper_keys=("family=internlm2.5_1.8b_to_7b",), scales=_PAPER_ONLY,
        evaluations=(TABLE_1,),
    ),
    Experiment(
        "grpo_internlm", "Table 1", "grpo", paper_keys=("family=internlm2.5_1.8b_to_7b",), scales=_PAPER_ONLY,
        evaluations=(TABLE_1,),
    ),
)  # fmt: skip


def chosen(names: Sequence[str], scale: Scale) -> list[Experiment]:
    """The experiments of these names, in their order; all of the scale if there is none.

    Raises UserError for a name that is unknown, or that this scale does not have.
    """
    there = {one.name: one for one in EXPERIMENTS if scale in one.scales}
    for name in names:
        if name in there:
            continue
        if any(name == one.name for one in EXPERIMENTS):
            raise UserError(f"experiments: {name} needs models that scale={scale.name} does not have; leave it out")
        near = difflib.get_close_matches(name, there, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"experiments: {name} is unknown: {guess}choose of {', '.join(there)}")
    return [there[name] for name in names] if names else list(there.values())
