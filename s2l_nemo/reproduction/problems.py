"""The held-out questions of toy runs as a benchmark file, on which models are compared before training."""

from __future__ import annotations

import json
from pathlib import Path

from s2l_nemo.config.schema import DataConfig
from s2l_nemo.data.prompts import read_split
from s2l_nemo.files import write_text_atomic
from s2l_nemo.reproduction.plan import HELD_OUT

COUNT = 128  # problems; with 64 samples of each, about as many answers as 16 steps of a run


def write_held_out(data: DataConfig, folder: Path) -> Path:
    """Writes the first held-out questions, the same ones that validations ask. Returns the file."""
    rows = read_split(data, "valid", COUNT).rows
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"question": row.question, "answer": row.answer}) + "\n" for row in rows]
    write_text_atomic(folder / f"{HELD_OUT}.jsonl", "".join(lines))
    return folder / f"{HELD_OUT}.jsonl"
