"""The SHA-256 manifests that conversions write, checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.output import MANIFEST

_BLOCK = 4 * 2**20


def find_manifest(path: Path) -> Path | None:
    """The manifest inside a folder or beside a file, if there is one."""
    manifest = path / MANIFEST if path.is_dir() else path.with_name(f"{path.name}.sha256")
    return manifest if manifest.is_file() else None


def read_manifest(manifest: Path) -> dict[Path, str]:
    """Files and their hashes. Raises UserError for a line that is not `HASH  NAME`, or names another folder's file."""
    hashes: dict[Path, str] = {}
    for line in manifest.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"):
        match = re.fullmatch(r"(\\?)([0-9a-f]{64}) [ *]([^\0]+)", line)
        text = "" if match is None else re.sub(r"\\(.)", _unescape, match[3]) if match[1] else match[3]
        name = Path(text or "..")
        if match is None or name.is_absolute() or ".." in name.parts:
            raise UserError(f"{manifest}: line {line[:80]!r} is not HASH  NAME: convert again")
        hashes[manifest.parent / name] = match[2]
    return hashes


def _unescape(match: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r"}.get(match[1], match[1])


def check_manifest(manifest: Path, progress: Callable[[int], None]) -> list[tuple[Path, str]]:
    """Files that are missing or differ from what was written, each with what is wrong."""
    faults: list[tuple[Path, str]] = []
    for path, wanted in read_manifest(manifest).items():
        if not path.is_file():
            faults.append((path, "is missing"))
        elif file_hash(path, progress) != wanted:
            faults.append((path, f"differs from {manifest.name}"))
    return faults


def manifest_bytes(manifest: Path) -> int:
    return sum(path.stat().st_size for path in read_manifest(manifest) if path.is_file())


def file_hash(path: Path, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
