"""What a run began with, against what it would go on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import Part
from s2l_nemo.errors import UserError
from s2l_nemo.records.checkpoints import publish_checkpoint
from s2l_nemo.records.identity import (
    Difference,
    Fingerprint,
    _fit,
    changed_parts,
    check_same_identity,
    found_differences,
    record_changes,
    settle_identity,
)

LEARNER = Fingerprint("model.path=large", {"weights": "1" * 64, "config.json": "2" * 64})
DATA = Fingerprint("data.path=a.jsonl", {"rows": "40", "texts": "3" * 64, "tokens": "4" * 64})
HELD_OUT = Fingerprint("data.valid_path=b.jsonl", {"prompt 0": "aa", "prompt 0/tokens": "bb", "rows": "1+"})
TEMPLATE = Fingerprint("that of model.path=large", {"text": "5" * 64})
BEGAN = {"learner": LEARNER, "training_data": DATA, "validation_data": HELD_OUT, "template": TEMPLATE}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a checkpoint of step 3."""
    folder = tmp_path / "run"
    half = folder / "checkpoints" / ".tmp-step_000003"
    half.mkdir(parents=True)
    (half / "weights").write_text("weights")
    publish_checkpoint(half, folder / "checkpoints" / "step_000003")
    settle_identity(folder, BEGAN, [], None)
    return folder


def changed(one: Fingerprint, **facts: str) -> Fingerprint:
    return Fingerprint(one.what, {**one.facts, **{name.replace("_", " "): value for name, value in facts.items()}})


def names(run: Path, **others: Fingerprint) -> list[str]:
    return [one.name for one in found_differences(run, {**BEGAN, **others})]


def test_the_same_goes_on_without_a_word(run: Path) -> None:
    check_same_identity(run, BEGAN, [])
    assert settle_identity(run, BEGAN, [], 3) == []
    assert json.loads((run / "identity.json").read_text())["changed"] == []


def test_all_differences_are_refused_in_one_line_that_names_old_and_new(run: Path) -> None:
    now = {**BEGAN, "learner": changed(LEARNER, weights="9" * 64), "training_data": changed(DATA, rows="20")}
    with pytest.raises(UserError) as caught:
        check_same_identity(run, now, [])
    assert str(caught.value) == (
        f"run.dir={run} began with another learner (model.path=large: weights 999999999999, before weights "
        "111111111111), another training_data (data.path=a.jsonl: rows 20, before rows 40); restore what it began "
        "with, choose another run.dir, or set run.allow_changed=[learner,training_data]"
    )
    before = (run / "identity.json").read_bytes()
    with pytest.raises(UserError, match="another training_data") as caught:
        settle_identity(run, now, [Part.learner], 3)
    assert str(caught.value).endswith("run.allow_changed=[learner,training_data]")
    assert "another learner" not in str(caught.value)
    assert (run / "identity.json").read_bytes() == before


def test_what_is_allowed_is_recorded_with_its_step_and_then_is_what_the_run_has(run: Path) -> None:
    now = {**BEGAN, "learner": changed(LEARNER, weights="9" * 64)}
    check_same_identity(run, now, [Part.learner])
    assert settle_identity(run, now, [Part.learner], 3) == [
        "changed after step 3: learner (model.path=large: weights 999999999999, before weights 111111111111)"
    ]
    assert settle_identity(run, now, [], 5) == []
    with pytest.raises(UserError, match="weights 111111111111, before weights 999999999999"):
        check_same_identity(run, BEGAN, [])
    assert json.loads((run / "identity.json").read_text())["changed"] == [
        {
            "step": 3, "part": "learner", "what": "model.path=large", "before": "weights 111111111111",
            "after": "weights 999999999999",
        },
    ]  # fmt: skip
    record_changes(run, [Difference("explorer/small", "explorers.small.path=x", "weights a", "weights b")], 5)
    assert changed_parts(run) == {Part.learner, Part.explorer}


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    settle_identity(tmp_path, BEGAN, [], None)
    now = {**BEGAN, "learner": changed(LEARNER, weights="9" * 64)}
    check_same_identity(tmp_path, now, [])
    assert settle_identity(tmp_path, now, [], None) == []


def test_a_run_of_an_earlier_version_goes_on_with_one_line(run: Path) -> None:
    (run / "identity.json").unlink()
    check_same_identity(run, BEGAN, [])
    (line,) = settle_identity(run, BEGAN, [], 3)
    assert line.startswith("warning: an earlier version has begun the run and wrote no identity.json")
    assert settle_identity(run, BEGAN, [], 4) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"identity": {"learner": 3}, "changed": []}',
        '{"identity": {}}',
        '{"identity": {"learner": {"facts": {"weights": 7}}}, "changed": []}',
        '{"identity": {"training_data": {"facts": {"rows": "many"}}}, "changed": []}',
    ],
)
def test_a_damaged_file_is_one_line(run: Path, text: str) -> None:
    (run / "identity.json").write_text(text)
    with pytest.raises(UserError, match=r"identity.json is damaged: restore it, or remove it"):
        check_same_identity(run, BEGAN, [])


def test_other_tokens_are_the_data_unless_tokenizer_or_template_differ(run: Path) -> None:
    data, held_out = changed(DATA, tokens="0"), Fingerprint("", {**HELD_OUT.facts, "prompt 0/tokens": "0"})
    assert names(run, training_data=data, validation_data=held_out) == ["training_data", "validation_data"]
    template = changed(TEMPLATE, text="0")
    assert names(run, training_data=data, validation_data=held_out, template=template) == ["template"]
    texts = changed(data, texts="0")
    assert names(run, training_data=texts, template=template) == ["training_data", "template"]


def test_more_or_fewer_held_out_prompts_are_the_same_data(run: Path) -> None:
    more = Fingerprint("", {**HELD_OUT.facts, "prompt 1": "cc", "rows": "2"})
    assert names(run, validation_data=more) == []
    assert names(run, validation_data=Fingerprint("", {"rows": "0"})) == ["validation_data"]  # it had at least one
    del (now := dict(BEGAN))["validation_data"]
    assert found_differences(run, now) == []


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("8", "8", True), ("8", "4", False), ("8", "12", False), ("8+", "12", True), ("8+", "4", False),
        ("8+", "12+", True), ("8+", "4+", True), ("8", "4+", True), ("8", "8+", True), ("8", "12+", False),
    ],
)  # fmt: skip
def test_rows_by_hand(before: str, after: str, same: bool) -> None:
    assert _fit(before, after) is same


@given(rows=st.integers(0, 20), first=st.integers(0, 20), second=st.integers(0, 20))
def test_one_source_always_fits_itself(rows: int, first: int, second: int) -> None:
    asked = [f"{min(rows, count)}{'+' if rows >= count else ''}" for count in (first, second)]
    assert _fit(*asked)


def test_names_of_parts_are_those_of_run_allow_changed() -> None:
    with pytest.raises(ValueError, match="is not a valid Part"):
        _ = Difference("weights", "", "", "").part
