"""The family of the world `coverage` at its smallest size: what is in its folder, and that a seed decides."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from s2l_nemo.config.load import load_config
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.models.open import check_same_tokenizer, open_model
from s2l_nemo.toy_worlds.coverage import MAX_ANSWER, CoverageRecipe
from s2l_nemo.toy_worlds.models import Shape
from s2l_nemo.toy_worlds.publish import publish
from s2l_nemo.toy_worlds.training import Stage, text_batches

ROOT = Path(__file__).parents[2]
QUICK = CoverageRecipe(
    learner=Shape(16, 32, 2, 4), explorer=Shape(8, 16, 2, 4), base_steps=2, explorer_steps=2, textbook_steps=2,
    batch_size=4, measured_prompts=10, measured_samples=4,
)  # fmt: skip


def made(recipe: CoverageRecipe, output: Path) -> dict[str, Any]:
    return publish(recipe, output, False, Console(file=io.StringIO(), width=200))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models") / "coverage"
    made(QUICK, output)
    return output


def test_facts_hold_recipe_curves_and_counts(family: Path) -> None:
    facts = json.loads((family / "family.json").read_text())
    assert facts["recipe"]["seed"] == 1
    assert facts["recipe"]["habits"]["add"] == 0.2
    assert facts["held_out"] == {"prompts": 10, "samples": 4, "seed": 1}
    assert set(facts["curves"]) == {"learner", "explorer", "learner - explorer"}
    assert all(list(curve) == ["1", "2", "4"] for curve in facts["curves"].values())
    assert facts["crosses"] is False  # two steps teach nobody to answer
    for name in ("learner", "explorer"):
        counts = facts["right_answers"][name]
        assert len(counts) == 10
        assert facts[name]["pass@1"] == pytest.approx(sum(counts) / 40, abs=1e-4)
    by_strategy = facts["by_strategy"]
    assert sum(one["prompts"] for one in by_strategy.values()) >= 10  # of several strategies one prompt is in each


def test_both_belong_to_one_family_and_differ(family: Path) -> None:
    learner, explorer = (open_model(name, str(family / name)) for name in ("learner", "explorer"))
    check_same_tokenizer(learner, explorer)
    assert len(learner.tokenizer) % 8 == 0
    assert (learner.config["hidden_size"], explorer.config["hidden_size"]) == (16, 8)


def test_a_seed_decides_every_bit(family: Path, tmp_path: Path) -> None:
    made(QUICK, tmp_path / "again")
    made(replace(QUICK, seed=2), tmp_path / "other")
    for name in ("learner", "explorer"):
        first, again, other = (
            (folder / name / "model.safetensors").read_bytes()
            for folder in (family, tmp_path / "again", tmp_path / "other")
        )
        assert first == again != other


def test_the_family_is_trained_and_measured_on_the_same_prompts(family: Path) -> None:
    cfg = load_config(["family=coverage"], ROOT / "conf")
    assert (cfg.model.path, cfg.explorer.path) == ("models/coverage/learner", "models/coverage/explorer")
    tokenizer = open_model("learner", str(family / "learner")).tokenizer
    limit = cfg.rollout.max_prompt_length
    trained = load_prompts(cfg.data, tokenizer, limit, "valid", 256)
    measured = load_prompts(CoverageRecipe().data, tokenizer, limit, "valid", 256)
    assert trained.filtered == 0
    assert [one.text for one in trained.prompts] == [one.text for one in measured.prompts]
    assert len(trained.prompts) == 256
    training = load_prompts(cfg.data, tokenizer, limit, "train")
    assert len(training.prompts) == 2048
    assert not {one.text for one in training.prompts} & {one.text for one in trained.prompts}


def test_answers_fit_in_what_a_measurement_samples(family: Path) -> None:
    tokenizer = open_model("learner", str(family / "learner")).tokenizer
    (batch,) = text_batches(CoverageRecipe().base_text.pair, Stage(1, 300, 1e-3, 1), tokenizer, "seed")
    assert batch[1].sum(dim=1).max() <= MAX_ANSWER
