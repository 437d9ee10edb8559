"""Whether Weights & Biases can start, asked before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from s2l_nemo.config.schema import LoggingConfig, WandbMode
from s2l_nemo.errors import UserError
from s2l_nemo.records.wandb_start import check_wandb, mode_of


@pytest.mark.parametrize(
    ("key", "variable", "mode"),
    [
        (None, "", "online"), (None, "offline", "offline"), (None, "dryrun", "offline"), (None, "disabled", "disabled"),
        (WandbMode.online, "offline", "online"), (WandbMode.disabled, "loud", "disabled"),
    ],
)  # fmt: skip
def test_f17_the_environment_holds_unless_the_key_is_given(key: WandbMode | None, variable: str, mode: str) -> None:
    assert mode_of(key, {"WANDB_MODE": variable}) is WandbMode(mode)


def test_f16_disabled_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wandb").mkdir()  # of an earlier run, and no package
    check_wandb(LoggingConfig(wandb_project="x", wandb_mode=WandbMode.disabled), {})
    check_wandb(LoggingConfig(wandb_project=None), {})
    if "wandb" not in sys.modules:
        with pytest.raises(UserError, match="pip install wandb"):
            check_wandb(LoggingConfig(wandb_project="x"), {"WANDB_API_KEY": "k"})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name, and a home."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    return tmp_path


def test_f16_online_needs_a_key_for_its_server(installed: Path) -> None:
    online, home = LoggingConfig(wandb_project="x"), {"HOME": str(installed)}
    with pytest.raises(UserError, match=r"is sent to api\.wandb\.ai, for which neither WANDB_API_KEY nor \.netrc"):
        check_wandb(online, home)
    check_wandb(online, {**home, "WANDB_API_KEY": "k"})
    check_wandb(online, {**home, "WANDB_MODE": "offline"})
    (installed / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password k\n")
    check_wandb(online, home)
    with pytest.raises(UserError, match=r"is sent to own\.example"):
        check_wandb(online, {**home, "WANDB_BASE_URL": "https://own.example:8080"})
    (installed / ".netrc").write_text("machine")
    with pytest.raises(UserError, match=r"\.netrc cannot be read"):
        check_wandb(online, home)
