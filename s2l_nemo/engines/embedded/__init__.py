"""Engines in the caller's process. They reach into transformers' caches and models, which other versions have not."""

import sys

from packaging.specifiers import SpecifierSet

from s2l_nemo.errors import UserError
from s2l_nemo.models.light_import import import_transformers

import_transformers()  # before a module of this package imports more of it
import transformers  # noqa: E402

TRANSFORMERS = ">=4.51,<=4.52"

if transformers.__version__ not in SpecifierSet(TRANSFORMERS):
    raise UserError(
        f"transformers {transformers.__version__} of {sys.executable}: this engine needs {TRANSFORMERS}. "
        "Leave engine.python empty for the trainer's own interpreter, or name one with that version"
    )
