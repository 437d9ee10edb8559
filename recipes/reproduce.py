"""Reproduces the paper: runs its experiments with several seeds, and judges its claims by a rule written before.

    python recipes/reproduce.py                                        # all at toy scale, on this machine
    python recipes/reproduce.py 'experiments=[s2l,grpo]' 'seeds=[1,2,3]' scale=toy
    python recipes/reproduce.py scale=paper slurm=true submit=true     # on a cluster, in the clone

The same command continues what was cut off, by Ctrl-C or SIGKILL. ROOT/plan.json says how far it is, claims.json and
report.html beside it what came out. docs/reproduce.md has the experiments, the claims and the rule.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # runs from a clone without installation

from rich.console import Console  # noqa: E402

from s2l_nemo.config.checks import check_config  # noqa: E402
from s2l_nemo.config.load import load_config, load_values  # noqa: E402
from s2l_nemo.config.reproduction import ReproduceConfig, Scale, check_reproduce_config, root_of  # noqa: E402
from s2l_nemo.config.schema import Config  # noqa: E402
from s2l_nemo.platform.failures import command  # noqa: E402
from s2l_nemo.reproduction.experiments import CONFIG_NAMES  # noqa: E402
from s2l_nemo.reproduction.ledger import Ledger  # noqa: E402
from s2l_nemo.reproduction.plan import PROBLEMS, make_plan  # noqa: E402
from s2l_nemo.reproduction.runner import only_one, run_jobs  # noqa: E402
from s2l_nemo.reproduction.slurm import submit, write_scripts  # noqa: E402
from s2l_nemo.reproduction.table import JobTable, render  # noqa: E402


@command
def main(argv: list[str]) -> int:
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False)
    cfg = load_values(argv, ReproduceConfig, __doc__ or "")
    check_reproduce_config(cfg)
    ledger = Ledger(root_of(cfg), make_plan(cfg, checked))
    if cfg.dry_run:
        return show(ledger, out)
    if cfg.slurm:
        return to_slurm(cfg, ledger, out)
    code = 0 if cfg.judge_only else run(cfg, ledger, out)
    if code > 1:
        out.print(f"interrupted: the same command continues; {ledger.root}/plan.json says how far it is")
        return code
    return code + judge(cfg, out)


def checked(arguments: list[str]) -> Config:
    """The configuration of a training run, checked as the run itself will check it."""
    cfg = load_config(arguments, ROOT / "conf")
    check_config(cfg)
    return cfg


def run(cfg: ReproduceConfig, ledger: Ledger, out: Console) -> int:
    write_problems(cfg, ledger)
    with JobTable(ledger, out) as table:
        return run_jobs(ledger, table, ROOT)


def write_problems(cfg: ReproduceConfig, ledger: Ledger) -> None:
    """The held-out questions of toy runs, as a benchmark for the models before training."""
    if any(f"evaluate.data={ledger.root / PROBLEMS}" in one.job.arguments for one in ledger.unfinished()):
        from s2l_nemo.reproduction.problems import write_held_out  # late: it imports torch

        run = checked(["--config-name", CONFIG_NAMES[Scale.toy], f"family={cfg.family.value}", *cfg.train_keys])
        write_held_out(run.data, ledger.root / PROBLEMS)


def show(ledger: Ledger, out: Console) -> int:
    for entry in ledger.entries.values():
        out.print(f"{entry.status.value:<9}  {entry.job.command}", soft_wrap=True)
    out.print(render(ledger))
    return 0


def to_slurm(cfg: ReproduceConfig, ledger: Ledger, out: Console) -> int:
    with only_one(ledger.root):
        paths = write_scripts(ledger, ROOT)
        out.print(f"{len(paths)} scripts in {ledger.root}/slurm")
        if cfg.submit:
            handed = submit(ledger, ROOT)
            out.print(f"{len(handed)} jobs submitted; judge_only=true judges the claims when they are done")
    return 0


def judge(cfg: ReproduceConfig, out: Console) -> int:
    from s2l_nemo.reproduction.judging import judge_root, verdict_table  # late: numpy and torch come with it

    judged = judge_root(root_of(cfg), cfg.scale)
    out.print(verdict_table(judged))
    from s2l_nemo.reproduction.report.page import write_report  # late: matplotlib comes with it

    out.print(f"written: {root_of(cfg)}/claims.json, plan.json")
    out.print(f"written: {write_report(root_of(cfg))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
