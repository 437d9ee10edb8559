"""Every key of `recipes/reproduce.py`, typed, and the rules between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from s2l_nemo.config.checks import check_ranges
from s2l_nemo.config.schema import FOLDER
from s2l_nemo.errors import UserError
from s2l_nemo.fields import SEED, key


class Scale(str, Enum):
    """How large the models and the runs are."""

    toy = "toy"  # a family of tools/make_tiny_family.py, on two cores
    paper = "paper"  # Appendix C, on 8 GPUs


class ToyFamily(str, Enum):
    """Which family toy runs have: choices of conf/family, worlds of docs/toy-worlds.md."""

    coverage = "coverage"  # word problems; pass@k of explorer and learner cross
    tiny = "tiny"  # sums; both are equally good


@dataclass
class ReproduceConfig:
    experiments: list[str] = key(list, "names of docs/reproduce.md, in this order; none: all of the scale")
    seeds: list[int] = key(list, "run.seed of the runs of each experiment; none: as many as the table gives it, from 1")
    scale: Scale = key(Scale.toy, "toy: a made family on this machine; paper: full size")
    family: ToyFamily = key(ToyFamily.coverage, "at toy scale: the models and their world (docs/toy-worlds.md)")
    dir: str | None = key(None, "ROOT, where everything is written; null: runs/reproduce/SCALE", FOLDER, path=True)
    train_keys: list[str] = key(list, "further keys of every training run, as 'train_keys=[\"hardware=h200_141gb\"]'")
    evaluate_keys: list[str] = key(list, "further keys of every evaluation")
    slurm: bool = key(False, "write one sbatch script a job into ROOT/slurm and run nothing here; needs scale=paper")
    submit: bool = key(False, "hand these scripts to sbatch; needs slurm=true")
    judge_only: bool = key(False, "run nothing: judge the claims by what lies in ROOT")
    dry_run: bool = key(False, "print the jobs and stop")


def check_reproduce_config(cfg: ReproduceConfig) -> None:
    """Raises UserError for the first value that does not fit the others. Reads no file."""
    check_ranges(cfg, ReproduceConfig)
    for name, values in (("experiments", list(cfg.experiments)), ("seeds", [str(seed) for seed in cfg.seeds])):
        if len(set(values)) < len(values):
            raise UserError(f"{name}=[{','.join(values)}]: give each once")
    if not all(map(SEED.holds, cfg.seeds)):
        raise UserError(f"seeds=[{','.join(map(str, cfg.seeds))}]: must be {SEED.wanted}")
    if cfg.submit and not cfg.slurm:
        raise UserError("submit=true with slurm=false: set slurm=true too, or leave submit out")
    if cfg.slurm and cfg.scale is not Scale.paper:
        raise UserError(f"slurm=true with scale={cfg.scale.name}: a toy run needs no cluster; leave slurm out")
    if cfg.family is not ToyFamily.coverage and cfg.scale is not Scale.toy:
        raise UserError(
            f"family={cfg.family.name} with scale={cfg.scale.name}: its experiments name their models; leave family "
            "out, or put it into train_keys"
        )
    chosen = [name for name in ("slurm", "judge_only", "dry_run") if getattr(cfg, name)]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(f'{name}=true' for name in chosen)} ask for two things: choose one")


def root_of(cfg: ReproduceConfig) -> Path:
    """The folder that everything is written into."""
    return Path("runs/reproduce") / cfg.scale.value if cfg.dir is None else Path(cfg.dir)
