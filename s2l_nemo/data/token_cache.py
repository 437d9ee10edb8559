"""Turns prompts into tokens and caches them on disk.

A cache file is a one-dimensional int32 array in NumPy's format, followed by its SHA-256. The array holds the lengths of
the P prompts, then all their tokens. The name of the file is the hash of everything that the tokens depend on: the
tokenizer, and the texts after chat template and system prompt.
"""

from __future__ import annotations

import hashlib
import io
import logging
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size
_VERSION = b"1"  # must change if the file format changes, or the way from texts to tokens


def tokenize(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, *, has_special_tokens: bool, cache_dir: Path | None
) -> list[tuple[int, ...]]:
    """Token ids of each text. They are read from the cache, or added to it.

    `has_special_tokens`: the texts come from a chat template, which writes special tokens itself. To other texts the
    tokenizer adds its own (BOS). A damaged cache file is logged and written anew.

    Raises UserError if the cache folder cannot be read or written.
    """
    if cache_dir is None or not texts:
        return _encode(texts, tokenizer, has_special_tokens)
    path = cache_dir / f"{_key(texts, tokenizer, has_special_tokens)}.npy"
    try:
        token_ids = _read(path, len(texts))
        if token_ids is None:
            token_ids = _encode(texts, tokenizer, has_special_tokens)
            _write(path, token_ids)
    except OSError as error:
        raise UserError(f"cannot use data.cache_dir={cache_dir}: {error.strerror}; choose another folder") from error
    return token_ids


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerFast, has_special_tokens: bool) -> list[tuple[int, ...]]:
    if not texts:
        return []
    # Not verbose: the caller filters and counts prompts that are too long.
    encoded = tokenizer(texts, add_special_tokens=not has_special_tokens, return_attention_mask=False, verbose=False)
    return [tuple(ids) for ids in encoded["input_ids"]]


def _key(texts: list[str], tokenizer: PreTrainedTokenizerFast, has_special_tokens: bool) -> str:
    digest = hashlib.sha256(_VERSION)
    head = (metadata.version("tokenizers"), tokenizer.backend_tokenizer.to_str(), str(has_special_tokens))
    for part in (*head, *texts):
        data = part.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _read(path: Path, count: int) -> list[tuple[int, ...]] | None:
    """The cached tokens of `count` prompts; None if there is no file or it is damaged."""
    if not path.exists():
        return None
    content = path.read_bytes()
    payload, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        log.warning("%s is damaged and is made anew", path)
        return None
    found = _parts(payload, count)
    if found is None:
        log.warning("%s is no cache of %d prompts and is made anew", path, count)
    return found


def _parts(payload: bytes, count: int) -> list[tuple[int, ...]] | None:
    """What the array says; None if it is another one, whose writer knew the checksum."""
    try:
        flat = np.load(io.BytesIO(payload), allow_pickle=False)
    except Exception:  # the head of an array is read with Python's own parser, which fails in many ways
        return None
    if not isinstance(flat, np.ndarray) or flat.dtype != np.dtype("<i4") or flat.ndim != 1 or len(flat) < count:
        return None
    ends = np.cumsum(flat[:count], dtype=np.int64)
    if (flat[:count] < 0).any() or ends[-1] != len(flat) - count:
        return None
    return [tuple(ids.tolist()) for ids in np.split(flat[count:], ends[:-1])]


def _write(path: Path, token_ids: list[tuple[int, ...]]) -> None:
    flat = [len(ids) for ids in token_ids] + [token for ids in token_ids for token in ids]
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(flat, dtype="<i4"), allow_pickle=False)
    payload = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(payload + hashlib.sha256(payload).digest())
