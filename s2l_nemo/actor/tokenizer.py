"""The tokenizer that NeMo's model carries, from local files and without running code from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.utils import AppState

from s2l_nemo.models.files import HF_FILES
from s2l_nemo.models.tokenizer import load_tokenizer


class LocalTokenizer(AutoTokenizer):  # type: ignore[misc]  # NeMo has no types
    """NeMo's wrapper around a tokenizer of a local folder."""

    def _initialize_tokenizer(self, pretrained_model_name: str, *args: Any, **kwargs: Any) -> None:
        self.tokenizer = load_tokenizer(Path(pretrained_model_name))


def tokenizer_folder(configured: str) -> Path | None:
    """The folder of the tokenizer inside the checkpoint that NeMo is restoring, else the folder `configured`.

    None if there is neither.
    """
    state = AppState()
    if state.is_model_being_restored and state.nemo_file_folder is not None:
        packed = Path(state.nemo_file_folder, HF_FILES)
        if packed.is_dir():
            return packed
    return Path(configured) if Path(configured).is_dir() else None
