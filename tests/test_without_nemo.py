"""The fast tests run on a path on which NeMo and Megatron cannot be imported, in subprocesses too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import HEAVY

WITHOUT_NEMO = Path(__file__).resolve().parent / "doubles" / "without_nemo"


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_the_path_of_the_fast_tests_has_no_nemo(package: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(WITHOUT_NEMO)}
    result = subprocess.run(
        [sys.executable, "-c", f"import {package}"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.endswith(f"ModuleNotFoundError: the fast tests run without {package}\n")


def test_no_fast_test_has_imported_it() -> None:
    if str(WITHOUT_NEMO) in [str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep)]:
        assert not HEAVY & set(sys.modules)
