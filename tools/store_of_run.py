"""Makes a store of what a policy has sampled in a run, from which another run trains without sampling.

    python tools/store_of_run.py run=runs/tiny output=stores/learner                    # for rollout.replay
    python tools/store_of_run.py run=runs/tiny source=explorer output=stores/explorer   # for explorer.source=store

docs/explorers.md says how such a run repeats the one that was recorded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from s2l_nemo.config.load import load_values
from s2l_nemo.config.store import RunStoreConfig, check_run_store_config
from s2l_nemo.platform.failures import command


@command
def main(argv: list[str]) -> int:
    cfg = load_values(argv, RunStoreConfig, __doc__ or "")
    check_run_store_config(cfg)
    from s2l_nemo.store.sampling.recorded import store_of_run  # late: its libraries take seconds

    store_of_run(cfg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
