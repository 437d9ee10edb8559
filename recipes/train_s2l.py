"""Trains a large learner with a small frozen explorer (S2L-PO).

    python recipes/train_s2l.py [--config-name NAME] [key=value ...]

Without arguments it runs the tiny preset on this machine. It starts its ranks itself. Under torchrun or Slurm it is one
of them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # runs from a clone without installation
# Both are read when torch is imported: no deprecation notes of its own, and no threads that spin on busy cores.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from s2l_nemo.config.checks import check_config, check_model_files  # noqa: E402
from s2l_nemo.config.load import load_config  # noqa: E402
from s2l_nemo.planner.plan import render_plan  # noqa: E402
from s2l_nemo.platform.failures import command  # noqa: E402
from s2l_nemo.platform.launch import leave_on_signals  # noqa: E402
from s2l_nemo.records.directory import pin_commits  # noqa: E402
from s2l_nemo.trainer.early import check_early  # noqa: E402


@command
def main(argv: list[str]) -> int:
    leave_on_signals()
    cfg = load_config(argv, ROOT / "conf")
    check_config(cfg)
    pin_commits(cfg.run.dir)
    if cfg.run.dry_run:
        print(render_plan(cfg))
        return 0
    models = check_model_files(cfg)
    early = check_early(cfg, models)
    from s2l_nemo.trainer.start import start  # imports torch

    return start(cfg, models, early)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
