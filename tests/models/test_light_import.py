from __future__ import annotations

import subprocess
import sys

from tests.commands import ROOT

CODE = """
import importlib.util, sys
from s2l_nemo.models.light_import import import_transformers

def found():
    return [name for name in ("scipy", "sklearn") if importlib.util.find_spec(name)]

before = found()
import_transformers()
from transformers.utils import is_scipy_available, is_sklearn_available

assert not is_scipy_available() and not is_sklearn_available()
assert not {"scipy", "sklearn"} & {*sys.modules}
assert found() == before
"""


def test_transformers_does_without_what_nothing_here_uses_and_others_can_still_import_it() -> None:
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True)
