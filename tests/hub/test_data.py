"""Data sets by name: which files are a split, in which order they are read, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import AnswerKind, OnBadRow
from s2l_nemo.data.benchmarks import load_benchmark
from s2l_nemo.data.rows import Row, read_rows
from s2l_nemo.data.sources import is_hub_name
from s2l_nemo.errors import UserError
from s2l_nemo.hub.commits import VARIABLE, commits
from s2l_nemo.hub.files import data_files
from tests.commands import run_here
from tests.hub.stand_in import StandIn

CARD = b"""---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  default: true
  data_files:
  - split: train
    path: socratic/*.parquet
---
# Grade School Math
"""


def parquet(*answers: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"question": f"{n}?", "answer": n, "rest": "x"} for n in answers]), file)
    return file.getvalue()


GSM8K = {
    "README.md": CARD,
    "gsm8k.py": b"raise SystemExit",
    "main/train-00000-of-00002.parquet": parquet(1, 2),
    "main/train-00001-of-00002.parquet": parquet(3),
    "main/test-00000-of-00001.parquet": parquet(4),
    "socratic/0.parquet": parquet(5),
}


def answers(source: str, limit: int | None = None) -> list[str]:
    return [row.answer for row in read_rows(DataSource(source, "question", "answer", None), OnBadRow.error, limit).rows]


def refusal(source: str) -> str:
    with pytest.raises(UserError) as error:
        answers(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_configurations_and_splits_of_a_card(hub: StandIn) -> None:
    hub.add("datasets/openai/gsm8k", GSM8K)
    assert answers("openai/gsm8k/main") == ["1", "2", "3"]
    assert set(hub.fetched()) == {
        "README.md", "main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet"
    }  # fmt: skip
    assert answers("openai/gsm8k/main:test") == ["4"]
    assert answers("openai/gsm8k") == ["5"]
    assert answers("openai/gsm8k/main", limit=3) == ["1", "2", "3"]
    assert list(commits()) == ["datasets/openai/gsm8k@main"]


def test_names_of_files_stand_for_splits_without_a_card(hub: StandIn) -> None:
    row = b'{"question": "a", "answer": "1"}\n'
    hub.add("datasets/o/plain", {"test.jsonl": row, "train.jsonl": row * 2, "picture.png": b""})
    assert answers("o/plain") == ["1", "1"]
    assert answers("o/plain:test") == ["1"]
    hub.add("datasets/o/single", {"questions.jsonl": row * 3})
    assert len(answers("o/single")) == 3
    assert "picture.png" not in hub.fetched()


def test_rows_are_numbered_through_all_files_and_bad_ones_name_theirs(hub: StandIn) -> None:
    row = b'{"question": "a", "answer": "1"}\n'
    hub.add("datasets/o/two", {"data/train-00000.jsonl": row + b"\n" + row, "data/train-00001.jsonl": row + b"{\n"})
    rows = read_rows(DataSource("o/two", "question", "answer", None), OnBadRow.skip)
    assert rows.rows == [Row(0, "a", "1", 1), Row(2, "a", "1", 3), Row(3, "a", "1", 4)]
    (bad,) = rows.skipped
    assert (bad.line, bad.reason[:22]) == (5, "train-00001.jsonl:2: n")
    assert refusal("o/two").startswith("o/two:5: train-00001.jsonl:2: not valid JSON")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("openai/gsm8k/main:dev", "there is no split dev: choose one of train, test"),
        ("openai/gsm8k/mian", "BuilderConfig 'mian' not found. Available: ['main', 'socratic']"),
        ("openai/gsm8k/main:train[:10%]", "parts of a split are not taken"),
        ("openai/gsm8k@v2", "has no revision v2"),
        ("openai/other", "has no dataset openai/other, or hides it"),
        ("o/pictures", "picture.png is of a kind that is not read"),
        ("o/empty", "o/empty: "),
        ("o/yaml", "the head of its README.md is not YAML"),
    ],
)
def test_what_is_not_there_or_not_read(hub: StandIn, source: str, words: str) -> None:
    hub.add("datasets/openai/gsm8k", GSM8K)
    hub.add("datasets/o/pictures", {"train/picture.png": b"\x89PNG"})
    hub.add("datasets/o/empty", {".gitattributes": b""})
    hub.add("datasets/o/yaml", {"README.md": b"---\na: [\n---\n", "train.jsonl": b"{}"})
    assert words in refusal(source)


@pytest.mark.parametrize(
    "path", ["/etc/*.json", "../../*.jsonl", "data/../../x.jsonl", "http://127.0.0.1:9/x.jsonl", "~/x.jsonl"]
)
def test_a_card_that_names_files_elsewhere_is_refused(hub: StandIn, path: str) -> None:
    card = f"---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: ['ok.jsonl', '{path}']\n---\n"
    hub.add("datasets/o/evil", {"README.md": card.encode(), "ok.jsonl": b"{}"})
    assert f"names the files {path!r}, which would leave the repository" in refusal("o/evil")
    assert "ok.jsonl" not in hub.fetched()


def test_offline_and_cut_off(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets/openai/gsm8k", GSM8K)
    hub.cut_after = len(CARD)
    assert "lacks main/train-00000-of-00002.parquet and 1 more files" in refusal("openai/gsm8k/main")
    hub.cut_after = None
    files = data_files("openai/gsm8k/main:test")
    monkeypatch.setenv(VARIABLE, "{}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert data_files("openai/gsm8k/main:test") == files
    assert "HF_HUB_OFFLINE is set, and the cache" in (line := refusal("openai/gsm8k/main"))
    assert "lacks main/train-00000-of-00002.parquet and 1 more files" in line
    assert hub.asked == []


def test_a_folder_of_benchmarks_may_be_a_data_set(hub: StandIn) -> None:
    files = {"aime24.jsonl": b'{"question": "1+1?", "answer": "2"}\n', "other.jsonl": b"{}"}
    hub.add("datasets/me/benchmarks", files)
    assert load_benchmark("aime24", Path("me/benchmarks"), AnswerKind.math).problems[0].gold == "2"
    assert hub.fetched() == ["aime24.jsonl"]
    with pytest.raises(UserError, match="no benchmark 'aime25'"):
        load_benchmark("aime25", Path("me/benchmarks"), AnswerKind.math)


def test_prepare_data_takes_a_name(hub: StandIn, tmp_path: Path) -> None:
    (commit,) = hub.add("datasets/openai/gsm8k", GSM8K)
    assert is_hub_name("openai/gsm8k")
    output = tmp_path / "train.jsonl"
    source = ("--source", "openai/gsm8k/main", "--format", "benchmark")
    done = run_here("tools/prepare_data.py", *source, "--output", output)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["answer"] for line in output.read_text().splitlines()] == ["1", "2", "3"]
    manifest = json.loads((tmp_path / "train.jsonl.manifest.json").read_text())
    assert (manifest["source_sha256"], manifest["source_commit"]) == (None, commit)
