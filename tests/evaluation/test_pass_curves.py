"""Curves of pass@k by hand, and right answers that are counted with a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2l_nemo.evaluation.pass_curves import HeldOut, crosses, curve_table, lead_curve, pass_curve, right_answers
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.models.open import open_model
from s2l_nemo.toy_worlds.models import Shape, build_model, build_tokenizer
from s2l_nemo.toy_worlds.training import Stage, pretraining_loss, text_batches, train
from s2l_nemo.types import Prompt


def test_curve_by_hand() -> None:
    curve = pass_curve([0, 1, 4, 3], samples=4)
    assert list(curve) == [1, 2, 4]
    assert curve[1].mean == pytest.approx((0 + 1 / 4 + 1 + 3 / 4) / 4)
    assert curve[2].mean == pytest.approx((0 + 1 / 2 + 1 + 1) / 4)
    assert curve[4].mean == pytest.approx(3 / 4)


def test_a_sharp_model_and_a_broad_one_cross() -> None:
    sharp, broad = [8] * 60 + [0] * 40, [2] * 100
    lead = lead_curve(sharp, broad, samples=8)
    assert lead[1].mean == pytest.approx(0.6 - 0.25)
    assert lead[8].mean == pytest.approx(0.6 - 1.0)
    assert crosses(lead)
    assert not crosses(lead_curve(broad, sharp, samples=8))
    assert not crosses(lead_curve(sharp, sharp, samples=8))


def test_leads_are_paired() -> None:
    first, second = [3, 0, 2, 4] * 8, [2, 0, 1, 3] * 8
    lead = lead_curve(first, second, samples=4)[1]
    apart = pass_curve(first, 4)[1]
    assert lead.mean == pytest.approx(3 / 16)
    assert lead.high - lead.low < (apart.high - apart.low) / 2
    with pytest.raises(ValueError, match="shorter"):
        lead_curve([1, 2], [1], samples=4)


def test_table_has_a_row_for_each_k() -> None:
    table = curve_table({"learner": {1: Interval(0.5, 0.4, 0.625), 64: Interval(1.0, 1.0, 1.0)}})
    assert table.row_count == 2
    assert list(table.columns[1].cells) == ["50.0 (40.0 to 62.5)", "100.0 (100.0 to 100.0)"]


def test_right_answers_are_counted_for_each_prompt(tmp_path: Path) -> None:
    """A model that has read nothing but sevens and eights."""
    torch.manual_seed(0)
    tokenizer, stage = build_tokenizer(), Stage(steps=40, batch_size=16, lr=1e-2, warmup_steps=4)
    model = build_model(Shape(32, 64, 2, 8), tokenizer)
    batches = text_batches(lambda rng: ("What?", rf"\boxed{{{rng.choice('78')}}}"), stage, tokenizer, "seed")
    train(model, pretraining_loss, batches, stage, lambda: None)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokens = tokenizer.apply_chat_template([{"role": "user", "content": "What?"}], add_generation_prompt=True)
    prompts = [Prompt(row, "What?", gold, tuple(tokens)) for row, gold in enumerate("7877")]
    heard: list[int] = []

    def counts(seed: int, rows: int) -> list[int]:
        asked = HeldOut(prompts, samples=32, max_tokens=8, seed=seed, rows=rows)
        return right_answers(open_model("model", str(tmp_path)), asked, lambda: heard.append(1))

    found = counts(seed=3, rows=512)
    assert all(6 <= count <= 26 for count in found)  # of 32
    assert len(set(found)) > 1
    assert len(heard) == 4
    assert counts(seed=3, rows=40) == found != counts(seed=4, rows=512)
