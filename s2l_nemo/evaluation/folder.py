"""The folders of an evaluation: which run continues in which, and what a kill may have left in them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY, write_text_atomic
from s2l_nemo.models.formats.rows import blocks
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.models.layout import entries
from s2l_nemo.models.open import Model
from s2l_nemo.records.checkpoints import MARKER

TIME_FORMAT = "%Y%m%d-%H%M%S"
_TIME = re.compile(r"\d{8}-\d{6}")
_READ_AT_ONCE = 2**24


@dataclass(frozen=True)
class EvaluationFolder:
    """`root/output/NAME_TIME` with responses and grades, `root/result/NAME_TIME` with figures."""

    root: Path
    folder_name: str

    def part(self, name: str) -> EvaluationFolder:
        """The same for one of several models: folders inside of these."""
        return EvaluationFolder(self.root, f"{self.folder_name}/{name}")

    @property
    def output(self) -> Path:
        return self.root / "output" / self.folder_name

    @property
    def result(self) -> Path:
        return self.root / "result" / self.folder_name

    @property
    def summary(self) -> Path:
        """Written last."""
        return self.result / "summary.json"

    @property
    def config(self) -> Path:
        return self.output / "config.txt"

    def raw(self, benchmark: str) -> Path:
        return self.output / f"{benchmark}_raw.jsonl"

    def graded(self, benchmark: str) -> Path:
        return self.output / f"{benchmark}.jsonl"

    def figures(self, benchmark: str) -> Path:
        return self.result / f"{benchmark}.json"

    def is_finished(self, benchmarks: Iterable[str]) -> bool:
        return self.summary.exists() and all(self.figures(benchmark).exists() for benchmark in benchmarks)


def find_folder(root: Path, name: str, identity: dict[str, Any]) -> EvaluationFolder | None:
    """The newest evaluation of this name that asked for the same. Its config.txt begins with `identity`."""
    names = sorted((path.name for path in (root / "output").glob(f"{name}_*")), reverse=True)
    for folder_name in names:
        folder = EvaluationFolder(root, folder_name)
        if _TIME.fullmatch(folder_name.removeprefix(f"{name}_")) and folder.config.is_file():
            content = read_yaml_mapping(folder.config.read_bytes(), str(folder.config))
            if {key: content.get(key) for key in identity} == identity:
                return folder
    return None


def create_folder(root: Path, name: str, identity: dict[str, Any], versions: dict[str, object]) -> EvaluationFolder:
    """A new evaluation, named by the present second (UTC), or by the next one that is free."""
    (root / "output").mkdir(parents=True, exist_ok=True)
    moment = datetime.now(timezone.utc)
    while True:
        folder = EvaluationFolder(root, f"{name}_{moment.strftime(TIME_FORMAT)}")
        try:
            folder.output.mkdir()
            break
        except FileExistsError:
            moment += timedelta(seconds=1)
    content = yaml.safe_dump({**identity, "versions": versions}, sort_keys=False, allow_unicode=True, width=120)
    write_text_atomic(folder.config, content)
    return folder


def lock_folder(folder: EvaluationFolder) -> None:
    """Keeps a second process out until this one ends, however it ends, and removes what a kill has left half-written.

    Raises UserError if another process is at work in the folder.
    """
    file = os.open(folder.config, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        raise UserError(
            f"{folder.output} is being written by another process: wait for it, or give another name"
        ) from None
    folder.result.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.output.rglob(f"{TEMPORARY}*"), *folder.result.rglob(f"{TEMPORARY}*")):
        leftover.unlink()


def hash_model(model: Model) -> str:
    """What tells the model from others, as lowercase hex: SHA-256 over its files.

    A run's checkpoint has an optimizer too. There it is taken over weights and small Hugging Face files.
    """
    model.fetch()
    path = Path(model.path)
    if not (path / MARKER).is_file():
        return hash_files(path)
    digest = hashlib.sha256()
    for name, region in sorted(model.checkpoint.hf_files.items()):
        digest.update(f"{name} {region.size}\n".encode(errors="surrogateescape"))
        digest.update(region.read())
    for entry in entries(model.shape):
        digest.update(f"{entry.tensor} {model.checkpoint.dtype}\n".encode())
        for block in blocks(model.checkpoint.rows(entry), _READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def hash_files(path: Path) -> str:
    """SHA-256 over names and bytes of a file, or of all files below a folder but hidden ones, as lowercase hex."""
    files = [path] if path.is_file() else sorted(_visible_files(path))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if file != path else ''} {size}\n".encode(errors="surrogateescape"))
        with file.open("rb") as stream:
            while block := stream.read(_READ_AT_ONCE):
                digest.update(block)
    return digest.hexdigest()


def _visible_files(folder: Path) -> Iterable[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file
