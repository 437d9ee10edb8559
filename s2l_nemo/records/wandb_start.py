"""Weights & Biases: whether it can start, asked before anything is loaded, and its start."""

from __future__ import annotations

import importlib.util
import netrc
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from s2l_nemo.config.schema import LoggingConfig, WandbMode
from s2l_nemo.errors import UserError
from s2l_nemo.files import write_text_atomic

_ALSO_CALLED = {"dryrun": WandbMode.offline, "run": WandbMode.online}  # in WANDB_MODE


def mode_of(mode: WandbMode | None, environ: Mapping[str, str]) -> WandbMode:
    """The mode that holds: the key's, else that of WANDB_MODE, else online. Raises UserError for an unknown one."""
    if mode is not None:
        return mode
    given = environ.get("WANDB_MODE") or WandbMode.online.value
    try:
        return _ALSO_CALLED.get(given) or WandbMode(given)
    except ValueError:
        known = ", ".join(one.value for one in WandbMode)
        raise UserError(f"WANDB_MODE={given} is unknown: set it to one of {known}, or unset it") from None


def check_wandb(logging: LoggingConfig, environ: Mapping[str, str]) -> None:
    """Raises UserError if Weights & Biases is asked for and not installed, or has no key for its server."""
    if logging.wandb_project is None:
        return
    mode = mode_of(logging.wandb_mode, environ)
    if mode is WandbMode.disabled:
        return
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder `wandb` of an earlier run is no package
        raise _missing(logging.wandb_project)
    if mode is WandbMode.online and not _has_key(environ):
        raise UserError(
            f"logging.wandb_project={logging.wandb_project} is sent to {_host(environ)}, for which neither "
            "WANDB_API_KEY nor .netrc has a key: run `wandb login`, or set logging.wandb_mode=offline"
        )


def start_wandb(run_dir: Path, project: str, mode: WandbMode) -> Any:
    """The run of Weights & Biases for the run in this folder. Raises UserError if the package is missing."""
    try:
        import wandb
    except ImportError as error:
        raise _missing(project) from error
    id_file = run_dir / "wandb_run_id"  # a resumed run goes on in the same Weights & Biases run
    if not id_file.exists():
        write_text_atomic(id_file, uuid.uuid4().hex)
    run = wandb.init(
        project=project,
        mode=mode.value,
        dir=str(run_dir),
        name=run_dir.name,
        id=id_file.read_text(encoding="utf-8"),
        resume="allow",
    )
    # Steps that are done again after a resume are lower than the counter of W&B, which would drop them.
    run.define_metric("*", step_metric="step")
    return run


def _missing(project: str) -> UserError:
    return UserError(
        f"logging.wandb_project={project} needs Weights & Biases; pip install wandb, or leave the key null"
    )


def _host(environ: Mapping[str, str]) -> str:
    return urlsplit(environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"


def _has_key(environ: Mapping[str, str]) -> bool:
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = environ.get("HOME", "")
    named = environ.get("NETRC")
    files = [Path(named)] if named else [Path(home, ".netrc"), Path(home, "_netrc")]
    for file in files:
        if os.access(file, os.R_OK) and file.is_file():
            try:
                return netrc.netrc(str(file)).authenticators(_host(environ)) is not None
            except (netrc.NetrcParseError, UnicodeDecodeError) as error:
                raise UserError(f"{file} cannot be read ({error}): correct it, or set WANDB_API_KEY") from None
    return False
