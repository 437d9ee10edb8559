"""Folders with a tokenizer of single characters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.character_tokenizer import character_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with a tokenizer and the JSON files given by name."""

    def write(name: str, tokenizer: PreTrainedTokenizerFast | None = None, **json_files: str) -> Path:
        folder = tmp_path / name
        (tokenizer or character_tokenizer()).save_pretrained(folder)
        for stem, text in json_files.items():
            (folder / f"{stem}.json").write_text(text)
        return folder

    return write
