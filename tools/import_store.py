"""Makes a store of rollouts from a JSONL file of texts: prompt, responses, scores, as the released code has them.

    python tools/import_store.py input=FILE model=PATH output=DIR data.path=FILE rollout.temperature=0.7 [key=value ...]

Prompts are found by their text in the data set that the run will train on. `rollout.*` says how the rollouts were
sampled. The store has no log-probs: docs/explorers.md says who can train on it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from s2l_nemo.config.load import load_values
from s2l_nemo.config.store import ImportConfig, check_import_config
from s2l_nemo.platform.failures import command


@command
def main(argv: list[str]) -> int:
    cfg = load_values(argv, ImportConfig, __doc__ or "")
    check_import_config(cfg)
    from s2l_nemo.store.sampling.imported import import_store  # late: its libraries take seconds

    import_store(cfg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
