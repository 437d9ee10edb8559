"""Which software a run has used, and which commits of models and data sets of the hub."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import s2l_nemo
from s2l_nemo.errors import UserError
from s2l_nemo.files import read_json_object
from s2l_nemo.hub.commits import commits

PACKAGES = ("nemo_toolkit", "nemo_aligner", "megatron-core", "torch", "transformers", "math-verify")


def versions(earlier: Path | None = None) -> dict[str, object]:
    """Python, packages, the commit of the code and those of the hub, to reproduce a run.

    `earlier` is versions.json of the same run.
    """
    now: dict[str, object] = {
        "python": platform.python_version(),
        "packages": {"s2l_nemo": s2l_nemo.__version__} | {name: _package_version(name) for name in PACKAGES},
        "git": _git_state(Path(__file__).resolve()),
        "hub": commits(),
    }
    if earlier is not None:
        before = read_json_object(earlier, "restore it, or choose another run.dir")
        history = before.pop("earlier", [])
        if not isinstance(history, list):
            raise UserError(f"{earlier}: earlier={history!r:.80} is no list: restore it, or choose another run.dir")
        if before != now:
            history.append(before)
        if history:
            now["earlier"] = history
    return now


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state(file: Path) -> dict[str, object] | None:
    """Commit and dirty flag of the repository that tracks `file`. None if there is no git or no such repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # fails for an installed copy inside a foreign repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
