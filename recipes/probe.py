"""Measures on real models what Section 3.1 and Appendix E of the paper claim (docs/probes.md).

python recipes/probe.py model=LEARNER explorer=EXPLORER output=DIR [key=value ...]
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
from s2l_nemo.config.probe import ProbeConfig, check_probe_config  # noqa: E402
from s2l_nemo.files import check_writable  # noqa: E402
from s2l_nemo.platform.failures import command  # noqa: E402
from s2l_nemo.platform.launch import leave_on_signals  # noqa: E402


@command
def main(argv: list[str]) -> int:
    leave_on_signals("interrupted: nothing is written before the end")
    cfg = load_values(argv, ProbeConfig, __doc__ or "")
    check_probe_config(cfg)
    check_writable(Path(cfg.output))  # now, and not when all is measured
    from s2l_nemo.probes.measuring.run import probe  # late: its libraries take seconds

    probe(cfg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
