"""Stands before the real package on the path of the fast tests, which must not need it."""

raise ModuleNotFoundError("the fast tests run without nemo_aligner", name="nemo_aligner")
