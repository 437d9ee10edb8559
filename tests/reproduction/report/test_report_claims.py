"""The words of a verdict. No sentence says more than its interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.reproduction.claims import Verdict
from s2l_nemo.reproduction.report.claims import Claim, read_claims, tally
from tests.reproduction.report.scripted import claim, write_claims

# Words that say more than a difference and its interval.
BOLD = ("prove", "show", "confirm", "better", "worse", "improve", "outperform", "win", "beat", "significant", "clear")


def read(tmp_path: Path, **changed: Any) -> Claim:
    (found,) = read_claims(write_claims(tmp_path, claim(**changed))) or []
    return found


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"verdict": "reproduced", "difference": 0.0625, "low": 0.0104, "high": 0.11, "seeds": 3, "problems": 256},
            "Reproduced at this size: the difference in pass@1 is +0.062, 95 % interval +0.010 to +0.110, 3 seeds, "
            "256 problems. The rule below counts this as agreement.",
        ),
        (
            {"verdict": "not_reproduced", "difference": -0.06, "low": -0.11, "high": -0.01, "seeds": [4]},
            "Not reproduced at this size: the difference in pass@1 is -0.060, 95 % interval over problems alone -0.110 "
            "to -0.010, 1 seed, 4 problems. The rule below counts this as disagreement.",
        ),
        (
            {"seeds": 3, "problems": 0},
            "Undecided at this size: the difference in pass@1 is +0.010, 95 % interval -0.050 to +0.070, 3 seeds. The "
            "rule below decides neither way.",
        ),
        (
            {"seeds": None},
            "Undecided at this size: the difference in pass@1 is +0.010, 95 % interval -0.050 to +0.070, unknown "
            "number of seeds, 4 problems. The rule below decides neither way.",
        ),
        (
            {"difference": None, "low": None, "high": None},
            "Undecided at this size: nothing was measured that could decide it.",
        ),
        (
            {"difference": 2e-5, "low": -3.25e-4, "high": 0.0},
            "Undecided at this size: the difference in pass@1 is +2.0e-05, 95 % interval -3.2e-04 to +0.000, 2 seeds, "
            "4 problems. The rule below decides neither way.",
        ),
    ],
)
def test_sentences(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    assert read(tmp_path, **changed).sentence == sentence


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_sentence_has_its_verdict_its_interval_and_no_bold_word(tmp_path: Path, verdict: Verdict) -> None:
    sentence = read(tmp_path, verdict=verdict.value).sentence
    assert sentence.startswith(f"{verdict.value.replace('_', ' ').capitalize()} at this size: ")
    assert "95 % interval -0.050 to +0.070" in sentence
    assert not [word for word in BOLD if word in sentence.lower()]


def test_only_an_undecided_claim_may_lack_an_interval(tmp_path: Path) -> None:
    for verdict in ("reproduced", "not_reproduced"):
        with pytest.raises(UserError, match=f"'faster' is {verdict} without an interval"):
            read(tmp_path, verdict=verdict, low=None)
    with pytest.raises(UserError, match="ends before it begins"):
        read(tmp_path, low=0.5, high=0.1)


@pytest.mark.parametrize(
    "changed", [{"verdict": "proved"}, {"difference": "much"}, {"experiments": None}, {"seeds": "many"}]
)
def test_a_malformed_claim_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="claim 'faster' is malformed"):
        read(tmp_path, **changed)


def test_files_that_hold_no_claims(tmp_path: Path) -> None:
    assert read_claims(tmp_path / "claims.json") is None
    assert read_claims(write_claims(tmp_path)) == []
    (tmp_path / "claims.json").write_text("{}")
    with pytest.raises(UserError, match="holds no list of claims"):
        read_claims(tmp_path / "claims.json")


def test_the_count_names_every_verdict(tmp_path: Path) -> None:
    path = write_claims(tmp_path, claim(), claim(id="b"), claim(id="c", verdict="reproduced"))
    assert tally(read_claims(path) or []) == (
        "Of 3 claims judged at this size: 1 reproduced, 0 not reproduced, 2 undecided."
    )
