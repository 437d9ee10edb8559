"""The environment of a server: that of the trainer, without what belongs to the trainer alone."""

from __future__ import annotations

import os
import pwd
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from s2l_nemo.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = "S2L_ENGINE_LD_LIBRARY_PATH"
# What a launcher tells its ranks. With it an engine would take itself for a rank of the trainer's job.
_LAUNCHERS = re.compile(
    r"PMI|PMIX|OMPI|MPI_|SLURM|MASTER_|TORCHELASTIC_|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)$|ROLE_NAME$"
    r"|CUDA_DEVICE_MAX_CONNECTIONS$"  # Megatron wants 1, which would slow an engine
)
_PACKAGES = {"site-packages", "dist-packages"}
_USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where getpass.getuser looks


def server_environment(environ: Mapping[str, str], python: str, devices: str | None) -> dict[str, str]:
    """The variables of a server that the interpreter `python` runs on `devices` (CUDA_VISIBLE_DEVICES).

    The trainer's without its launcher's, and with this repository. The programs next to `python` come first in PATH. If
    `python` is not the trainer's interpreter, libraries of the trainer's Python packages are no longer in
    LD_LIBRARY_PATH, which the loader searches before an engine's own: torch would load another torch's. A user's
    S2L_ENGINE_LD_LIBRARY_PATH takes its place.
    """
    environment = {name: value for name, value in environ.items() if not _LAUNCHERS.match(name)}
    environment["PYTHONPATH"] = _joined(str(ROOT), environ.get("PYTHONPATH"))
    if os.path.dirname(python):
        environment["PATH"] = _joined(os.path.dirname(python), environ.get("PATH"))
    if LIBRARIES in environ:
        environment["LD_LIBRARY_PATH"] = environ[LIBRARIES]
    elif python != sys.executable and "LD_LIBRARY_PATH" in environ:
        folders = environ["LD_LIBRARY_PATH"].split(os.pathsep)
        environment["LD_LIBRARY_PATH"] = _joined(*(one for one in folders if not _PACKAGES & set(Path(one).parts)))
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return environment


def writable_folders(environ: Mapping[str, str], uid: int, temporary: Path) -> dict[str, str]:
    """A home and folders for caches below `temporary`, for a user who cannot write to HOME; else nothing.

    NeMo makes a folder in the home when it is imported. The made-up user of a container has HOME=/ and often no name.
    Kernels that are compiled at run time need a cache, and some packages the user's name. Whatever of this is set
    already stays, but HOME. Raises UserError if another user owns the folder.
    """
    if os.access(environ.get("HOME", ""), os.W_OK | os.X_OK):
        return {}
    home = temporary / f"s2l_nemo_{uid}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.lstat().st_uid != uid:
        raise UserError(f"{home} belongs to another user, and HOME cannot be written: set HOME to a folder of your own")
    caches = Path(environ.get("XDG_CACHE_HOME", home / ".cache"))
    folders = {
        "XDG_CACHE_HOME": caches,
        "TRITON_CACHE_DIR": caches / "triton",
        "FLASHINFER_WORKSPACE_BASE": caches,
        "TORCHINDUCTOR_CACHE_DIR": caches / "torchinductor",
    }
    found = {"HOME": str(home)} | {name: str(path) for name, path in folders.items() if name not in environ}
    if not any(name in environ for name in _USER_NAMES) and not _has_name(uid):
        found["USER"] = f"user{uid}"
    return found


def use_writable_folders() -> None:
    """Gives this process what `writable_folders` finds. To be called before the imports that look for a home."""
    os.environ.update(writable_folders(os.environ, os.getuid(), Path(tempfile.gettempdir())))


def _joined(*parts: str | None) -> str:
    return os.pathsep.join(filter(None, parts))


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
