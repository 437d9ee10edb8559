"""Prompts to tokens, and their cache on disk.

A cache file is a one-dimensional int32 array in NumPy's format, the length of each of P prompts and then all their
tokens, followed by its SHA-256. Its name is the hash of everything that the tokens depend on: the finished texts (chat
template and system prompt applied) and the tokenizer.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2l_nemo.config.schema import PromptFormat
from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size
_VERSION = b"1"  # of the file format and of how texts become tokens here


def tokenize(
    questions: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    form: PromptFormat,
    system_prompt: str | None,
    cache_dir: Path | None,
) -> list[tuple[int, ...]]:
    """Token ids of each question, read from or added to the cache.

    `chat` is the chat template with the generation prompt; `base`, and a tokenizer without a template, the question as
    it is with the tokenizer's own special tokens (BOS). A damaged cache file is logged and written anew.

    Raises UserError where a system prompt has no place, or the cache folder cannot be read or written.
    """
    if not questions:
        return []
    is_chat = form is PromptFormat.chat and tokenizer.chat_template is not None
    if system_prompt is not None and not is_chat:
        what = "data.format=chat" if form is PromptFormat.base else "a tokenizer with a chat template"
        raise UserError(f"data.system_prompt needs {what}: set it to null")
    texts = _chats(questions, tokenizer, system_prompt) if is_chat else list(questions)
    if cache_dir is None:
        return _encode(texts, tokenizer, is_chat)
    path = cache_dir / f"{_key(texts, tokenizer, is_chat)}.npy"
    try:
        token_ids = _read(path, len(texts))
        if token_ids is None:
            token_ids = _encode(texts, tokenizer, is_chat)
            _write(path, token_ids)
    except OSError as error:
        raise UserError(f"cannot use data.cache_dir={cache_dir}: {error.strerror}; choose another folder") from error
    return token_ids


def _chats(questions: Sequence[str], tokenizer: PreTrainedTokenizerFast, system_prompt: str | None) -> list[str]:
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    chats = [[*system, {"role": "user", "content": question}] for question in questions]
    texts: list[str] = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    return texts


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerFast, is_chat: bool) -> list[tuple[int, ...]]:
    # A template writes the special tokens itself. Not verbose: too long prompts are filtered and counted by the caller.
    encoded = tokenizer(texts, add_special_tokens=not is_chat, return_attention_mask=False, verbose=False)
    return [tuple(ids) for ids in encoded["input_ids"]]


def _key(texts: list[str], tokenizer: PreTrainedTokenizerFast, is_chat: bool) -> str:
    digest = hashlib.sha256(_VERSION)
    head = (metadata.version("tokenizers"), tokenizer.backend_tokenizer.to_str(), str(is_chat))
    for part in (*head, *texts):
        data = part.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _read(path: Path, count: int) -> list[tuple[int, ...]] | None:
    """The cached tokens of `count` prompts; None where there are none, or the file is damaged."""
    if not path.exists():
        return None
    content = path.read_bytes()
    payload, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        log.warning("%s is damaged and is made anew", path)
        return None
    flat = np.load(io.BytesIO(payload), allow_pickle=False)
    ends = np.cumsum(flat[:count], dtype=np.int64)
    return [tuple(ids.tolist()) for ids in np.split(flat[count:], ends[:-1])]


def _write(path: Path, token_ids: list[tuple[int, ...]]) -> None:
    flat = [len(ids) for ids in token_ids] + [token for ids in token_ids for token in ids]
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(flat, dtype="<i4"), allow_pickle=False)
    payload = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(payload + hashlib.sha256(payload).digest())
