"""Keeps the start-up messages of NeMo, Lightning and Megatron, which are not about a run, to errors."""

from __future__ import annotations

import logging

from nemo.utils import logging as nemo_logging


def silence() -> None:
    """To be called before the rest of NeMo is imported: some messages come with the import."""
    nemo_logging.setLevel(logging.ERROR)
    for name in ("lightning", "lightning.pytorch", "megatron", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
