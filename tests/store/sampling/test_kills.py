"""SIGKILL at three moments, and again: the same files, byte for byte, as those of an uninterrupted job."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.store.sampling.command import contents, sample_here, shards, start, table, write_model

PROMPTS, SAMPLES, CHUNK = 40, 4, 2
SIZE = [f"data.arithmetic.train_prompts={PROMPTS}", f"samples={SAMPLES}", f"chunk={CHUNK}"]


def test_sigkill_and_again_gives_the_same_store(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    rng = random.Random()
    for _ in range(3):
        before = len(shards(killed))
        job = start(model, killed, *SIZE)
        while len(shards(killed)) == before:
            assert job.is_running, job.log.read_text()
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        job.kill()
    left = PROMPTS // CHUNK - len(shards(killed))
    assert left > 0
    text = start(model, killed, *SIZE).text_at_end()
    assert f"chunk {left}/{left}  {PROMPTS * SAMPLES}/{PROMPTS * SAMPLES} rollouts" in text
    assert "continues: " in text
    start(model, whole, *SIZE).text_at_end()
    assert len(shards(whole)) == PROMPTS // CHUNK
    assert contents(killed) == contents(whole)
    assert table(killed).equals(table(whole))
    assert not list((killed / "rollouts").glob(".tmp-*"))
    assert "complete: " in sample_here(model, killed, *SIZE).stdout
