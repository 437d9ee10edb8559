"""Evaluates a model, or each checkpoint of a run, or scores the responses of an earlier evaluation again.

    python recipes/evaluate.py model=PATH 'benchmarks=[aime24,math500]' mode=nothink k=16 [key=value ...]
    python recipes/evaluate.py model=RUN steps=all [key=value ...]
    python recipes/evaluate.py --config-name table_1 model=PATH [key=value ...]
    python recipes/evaluate.py evaluate.rescore=DIR [key=value ...]

The same command continues an evaluation that was cut off.
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
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not survive a fork

from s2l_nemo.config.evaluation import EvaluateConfig, check_evaluate_config  # noqa: E402
from s2l_nemo.config.load import load_values  # noqa: E402
from s2l_nemo.platform.failures import command  # noqa: E402
from s2l_nemo.platform.launch import leave_on_signals  # noqa: E402


@command
def main(argv: list[str]) -> int:
    leave_on_signals("interrupted: the same command continues the evaluation")
    cfg = load_values(argv, EvaluateConfig, __doc__ or "", ROOT / "conf" / "evaluate")
    check_evaluate_config(cfg)
    if cfg.evaluate.rescore is not None:
        from s2l_nemo.evaluation.rescore import rescore

        rescore(cfg)
    elif cfg.steps:
        from s2l_nemo.evaluation.run_steps import evaluate_steps

        evaluate_steps(cfg)
    else:
        from s2l_nemo.evaluation.run import evaluate

        evaluate(cfg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
