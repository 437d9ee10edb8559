"""Opens a store for a person who waits. Apart from sampling, so that tools start without torch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from s2l_nemo.evaluation.console import progress_bar
from s2l_nemo.store.reader import Store


def open_shown(folder: Path, out: Console, index: Path | None = None) -> Store:
    """Opens a store, with a bar while its shards are read for the first time: a million rollouts take half a minute."""
    with progress_bar(out, after="shards") as bar:

        def show(done: int, shards: int) -> None:
            if not bar.tasks:
                bar.add_task("", total=shards)
            bar.update(bar.tasks[0].id, completed=done)

        return Store.open(folder, index=index, on_shard=show)
