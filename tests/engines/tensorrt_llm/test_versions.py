"""Another version of TensorRT-LLM: the double is one per process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def test_a_row_of_the_table_is_all_that_1_3_needs() -> None:
    """The double of 1.3 takes its facts and nothing else, and the adapter runs on it once the table has a row."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, HERE / "test_facts.py", HERE / "row_of_1_3.py"],
        cwd=ROOT,
        env={**os.environ, "TENSORRT_LLM_DOUBLE": "1.3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 150
