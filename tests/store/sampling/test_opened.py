"""The bar of a first opening."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from rich.console import Console

from s2l_nemo.store.sampling.opened import open_shown
from tests.store.stores import write_store


def shown(folder: Path, is_terminal: bool) -> str:
    out = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None, width=100)
    with contextlib.closing(open_shown(folder, out)) as store:
        assert store.rollouts == 12
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_the_first_opening_shows_its_shards_and_the_next_one_nothing(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store")
    assert "2/2 shards" in shown(folder, is_terminal=True)
    assert "shards" not in shown(folder, is_terminal=True)


def test_where_there_is_no_terminal_there_is_no_bar(tmp_path: Path) -> None:
    assert shown(write_store(tmp_path / "store"), is_terminal=False) == ""
