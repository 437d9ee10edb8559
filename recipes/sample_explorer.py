"""Samples an explorer ahead of training into a store of rollouts, from which many runs may train.

    python recipes/sample_explorer.py model=PATH output=DIR samples=16 [data.path=FILE] [key=value ...]
    python recipes/sample_explorer.py --config-name NAME   # a preset of conf/store
    python recipes/sample_explorer.py ... shard=3/8        # the third of eight jobs that write into one folder

The same command continues a job that was cut off. More `samples` extend a store. docs/explorers.md says more.
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

from s2l_nemo.config.load import load_values  # noqa: E402
from s2l_nemo.config.store import SampleConfig, check_sample_config  # noqa: E402
from s2l_nemo.platform.failures import command  # noqa: E402
from s2l_nemo.platform.launch import leave_on_signals  # noqa: E402


@command
def main(argv: list[str]) -> int:
    leave_on_signals("interrupted: the same command continues the store")
    cfg = load_values(argv, SampleConfig, __doc__ or "", ROOT / "conf" / "store")
    check_sample_config(cfg)
    from s2l_nemo.store.sampling.run import sample  # late: its libraries take seconds

    sample(cfg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
