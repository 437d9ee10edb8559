"""What is a path of this machine, and what a name of the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.hub.names import HubName, Kind, check_listed, hub_name

MODEL, DATASET = Kind.model, Kind.dataset


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        (MODEL, "Qwen/Qwen3-1.7B-Base", HubName(MODEL, "Qwen/Qwen3-1.7B-Base")),
        (MODEL, "Qwen/Qwen3-1.7B@refs/pr/1", HubName(MODEL, "Qwen/Qwen3-1.7B", "refs/pr/1")),
        (
            DATASET,
            "Hothan/OlympiadBench/OE_TO_maths_en_COMP@main:train[:10%]",
            HubName(DATASET, "Hothan/OlympiadBench", "main", "OE_TO_maths_en_COMP", "train[:10%]"),
        ),
        (DATASET, "openai/gsm8k", HubName(DATASET, "openai/gsm8k")),
        (DATASET, "openai/gsm8k/main@v1:test", HubName(DATASET, "openai/gsm8k", "v1", "main", "test")),
        (DATASET, "openai/gsm8k:test", HubName(DATASET, "openai/gsm8k", split="test")),
    ],
)
def test_names(kind: Kind, text: str, name: HubName) -> None:
    assert hub_name(kind, text) == name


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (MODEL, "model"),
        (MODEL, "models/Qwen3-8B-Base"),  # a folder of the presets; the hub's own page
        (MODEL, "models/tiny/learner"),
        (MODEL, "runs/final.nemo"),
        (MODEL, "/Qwen/Qwen3"),
        (MODEL, "./Qwen/Qwen3"),
        (MODEL, "../Qwen"),
        (MODEL, "~/Qwen"),
        (MODEL, "Qwen/..Qwen3"),
        (MODEL, "Qwen/a..b"),
        (MODEL, "Qwen/a--b"),  # of the cache
        (MODEL, "Qwen/Qwen3@../../../x"),
        (MODEL, "Qwen/Qwen3@a/../b"),
        (MODEL, "Qwen/Qwen3\n"),
        (MODEL, "Qwen/Qwen 3"),
        (DATASET, "data/train.jsonl"),
        (DATASET, "data/train.json.gz"),
        (DATASET, "data/train.parquet"),
        (DATASET, "datasets/train"),
    ],
)
def test_paths(kind: Kind, text: str) -> None:
    assert hub_name(kind, text) is None


def test_what_is_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name(MODEL, "Qwen/Qwen3") is not None
    (tmp_path / "Qwen" / "Qwen3").mkdir(parents=True)
    assert hub_name(MODEL, "Qwen/Qwen3") is None


@given(st.sampled_from(Kind), st.text(alphabet="aZ0._-/@:\\\n~é[]%", max_size=30))
def test_no_name_leaves_the_cache(kind: Kind, text: str) -> None:
    name = hub_name(kind, text)
    if name is not None:
        cache = Path("/cache")
        storage = cache / f"{kind.value}s--{name.repo.replace('/', '--')}"
        assert Path(os.path.normpath(storage)).parent == cache
        assert storage / "refs" in Path(os.path.normpath(storage / "refs" / name.revision)).parents
        assert name.repo.count("/") == 1


@pytest.mark.parametrize(
    "name", ["../x.json", "a/../x.json", "/etc/x.json", "a//b", "./a", "", "a/", "a\\b", "..", "a\0"]
)
def test_a_listed_file_that_would_leave_the_cache_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="would leave the cache"):
        check_listed("model.path=a/b", name)
    check_listed("model.path=a/b", "data/..train-00000.parquet")
