"""Sampling a store: what is in it, how it grows, how jobs share it, and what is refused."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2l_nemo.algorithm.groups import explorer_seed
from s2l_nemo.config.schema import DrawOrder
from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import open_model, tokenizer_hash
from s2l_nemo.store.engine import StoreEngine
from s2l_nemo.store.reader import Store
from s2l_nemo.store.sampling.folder import claimed, create_or_check, stored_samples
from s2l_nemo.store.sampling.plan import Share
from s2l_nemo.types import SampleRequest, Source
from tests.agreement import LOGPROB_BOUND, assert_same_completions
from tests.store.sampling.command import sample_here, shards, start, table, write_model
from tests.store.stores import PARAMS, PROMPTS, facts_of, rollout, write_store

SIZE = ["data.arithmetic.train_prompts=6", "samples=4", "chunk=2", "seed=5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def sampled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled") / "store"
    done = sample_here(model, folder, *SIZE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "chunk 3/3  24/24 rollouts" in done.stdout
    assert r"warning: none of the 6 prompts asks for \boxed{}, where the reward looks for the answer" in done.stdout
    return folder


@pytest.fixture
def copy(sampled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sampled, tmp_path / "store")


def test_what_a_store_holds(model: Path, sampled: Path) -> None:
    names = {path.name for path in sampled.iterdir() if not path.name.startswith(".")}
    assert names - {"index"} == {"prompts.parquet", "rollouts", "store.json"}
    store = Store.open(sampled)
    assert (store.rollouts, store.samples, store.facts.prompts) == (24, 4, 6)
    assert (store.facts.seed, store.facts.explorer, store.facts.precision) == (5, 1, "fp32")
    assert store.facts.rewards == {"answer": "math", "fn": None}
    opened = open_model("model", str(model))
    assert store.facts.tokenizer_hash == tokenizer_hash(opened)
    rows = table(sampled)
    assert rows["seed"].to_pylist() == [explorer_seed(5, 1, prompt_id, n) for prompt_id in range(6) for n in range(4)]
    assert {*rows["finish_reason"].to_pylist()} <= {"stop", "length"}
    assert {*rows["reward"].to_pylist()} <= {0.0, 1.0}


def test_f20_checks_that_fail_are_said_and_a_chunk_of_nothing_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "def some(response, answer, prompt):\n    return 1.0 if prompt[8] in '13579' else {}[0]\n"
        "def none(response, answer, prompt):\n    return None\n"
    )
    (tmp_path / "store_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    some = sample_here(model, tmp_path / "some", *SIZE, "rewards.fn=store_rewards:some")
    assert some.stdout.count("warning: checks failed, the first with 'KeyError: 0'; rewards are 0") == 1, some
    none = sample_here(model, tmp_path / "none", *SIZE, "rewards.fn=store_rewards:none")
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "8 of 8 checks failed, the first with 'it returned None, must return a finite number'" in none.stderr
    assert not list((tmp_path / "none" / "rollouts").glob("*.parquet"))


def test_a_store_answers_what_the_live_explorer_would(model: Path, sampled: Path) -> None:
    store = Store.open(sampled)
    engine = StoreEngine(store, samples=4, order=DrawOrder.stored, seed=5, needs_logprobs=True)
    live = EmbeddedEngine.from_pretrained(
        model, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=3
    )
    assert engine.weight_hash() == live.weight_hash()
    requests = [
        SampleRequest(
            one.prompt_id, place, one.token_ids, explorer_seed(5, 1, one.prompt_id, 2 + place), draw=2 + place
        )
        for one in store.prompts()
        for place in range(2)
    ]
    assert_same_completions(
        engine.generate(requests, store.facts.sampling), live.generate(requests, store.facts.sampling)
    )


def test_a_complete_store_says_so_and_changes_nothing(model: Path, copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards(copy)}
    for samples in (4, 2):
        done = sample_here(model, copy, *SIZE, f"samples={samples}")
        assert done.returncode == 0
        assert f"complete: {copy} has 4 samples of each of this job's 6 prompts" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in shards(copy)} == before


def test_more_samples_extend_the_store(model: Path, copy: Path, tmp_path: Path) -> None:
    before = shards(copy)
    done = sample_here(model, copy, *SIZE, "samples=6")
    assert done.returncode == 0
    assert "continues: 24 rollouts of this job are there" in done.stdout
    assert "chunk 3/3  36/36 rollouts" in done.stdout
    assert [path.name.partition("samples")[2] for path in shards(copy) if path not in before] == [
        "0004to0005.parquet"
    ] * 3
    at_once = tmp_path / "at-once"
    assert sample_here(model, at_once, *SIZE, "samples=6").returncode == 0
    extended, whole = table(copy), table(at_once)
    for name in ("prompt_id", "sample", "token_ids", "finish_reason", "reward", "answer", "seed"):
        assert extended[name].equals(whole[name]), name
    logprobs = [one["logprobs"].combine_chunks().flatten().to_numpy() for one in (extended, whole)]
    np.testing.assert_allclose(logprobs[0], logprobs[1], atol=LOGPROB_BOUND)  # other batches round otherwise
    assert Store.open(copy).samples == 6


def test_a_store_that_is_whole_has_its_index(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    first = sample_here(model, folder, *SIZE, "shard=1/2").stdout
    assert "written to" in first
    assert "checked: " not in first
    assert not (folder / "index").exists()
    assert "has 24 whole rollouts" in sample_here(model, folder, *SIZE, "shard=2/2").stdout
    read: list[int] = []
    with contextlib.closing(Store.open(folder, on_shard=lambda done, _: read.append(done))) as store:
        assert store.rollouts == 24
    assert not read


def test_jobs_share_a_store(model: Path, sampled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    jobs = [start(model, folder, *SIZE, f"shard={job}/3") for job in (1, 2, 3)]
    for job in jobs:
        assert "written to" in job.text_at_end()
    assert (folder / "index").is_dir()  # the job that ended last found the store whole
    rows, whole = table(folder), table(sampled)
    assert rows["token_ids"].equals(whole["token_ids"])
    assert rows["seed"].equals(whole["seed"])
    assert Store.open(folder).samples == 4
    assert "complete" in sample_here(model, folder, *SIZE).stdout  # another division


def test_a_server_samples_the_same(model: Path, sampled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    assert "written to" in start(model, folder, *SIZE, "engine.kind=server").text_at_end()
    assert table(folder)["token_ids"].equals(table(sampled)["token_ids"])
    assert (folder / "engines" / "explorer_rank1.log").exists()
    assert "complete" in sample_here(model, folder, *SIZE).stdout  # the weights have one hash in every kind of engine


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        (["rollout.temperature=0.5"], "another value of rollout.temperature: 1.0, not 0.5"),
        (["rollout.max_response_length=11"], "another value of rollout.max_response_length: 12, not 11"),
        (["seed=6"], "another value of seed: 5, not 6"),
        (["explorer=2"], "another value of explorer: 1, not 2"),
        (["precision=bf16"], "another value of precision: fp32, not bf16"),
        (["rewards.answer=exact"], "another value of rewards.answer: math, not exact"),
        (["data.arithmetic.train_prompts=7"], "prompt 6 of the run ("),
        (["data.arithmetic.train_prompts=5"], "it has 6 prompts, the command 5"),
        (["data.arithmetic.terms=3"], "prompt 0 has text "),
        (["rollout.max_prompt_length=300"], "is more than the"),
    ],
)
def test_changed_settings_are_refused(model: Path, sampled: Path, changed: list[str], fragment: str) -> None:
    done = sample_here(model, sampled, *SIZE, *changed)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert fragment in line
    assert len(shards(sampled)) == 3


def test_other_weights_are_refused(sampled: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    done = sample_here(other, sampled, *SIZE)
    assert done.returncode == 2
    assert "another value of weights of model: " in done.stderr


def test_one_rollout_in_two_files_is_refused_before_sampling(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store", [[rollout(3, 0)], [rollout(5, 0), rollout(3, 0)]])
    with pytest.raises(UserError, match=r"0\.parquet and 1\.parquet both hold prompt 3 sample 0"):
        stored_samples(folder, facts_of(), [3, 11])
    assert stored_samples(folder, facts_of(), [5, 11]) == {5: {0}, 11: set()}


def test_a_store_is_made_once(tmp_path: Path) -> None:
    create_or_check(tmp_path, facts_of(), PROMPTS)
    create_or_check(tmp_path, facts_of(model="moved"), PROMPTS)
    assert Store.open(tmp_path).facts.model == "some/model"
    with pytest.raises(UserError, match=r"another value of rollout\.top_k: 0, not 5"):
        create_or_check(tmp_path, facts_of(sampling=replace(PARAMS, top_k=5)), PROMPTS)


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Path]:
    """A folder in which another process holds shard=2/3."""
    code = (
        "import sys, pathlib\nfrom s2l_nemo.store.sampling.folder import claimed\n"
        "from s2l_nemo.store.sampling.plan import Share\n"
        "with claimed(pathlib.Path(sys.argv[1]), Share(2, 3, 1)):\n    print(flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield tmp_path
        process.kill()


def test_jobs_that_would_meet_are_kept_apart(working: Path) -> None:
    with claimed(working, Share(1, 3, 1)):
        pass
    with (
        pytest.raises(UserError, match=r"shard=2/3 of .* is being sampled by another process"),
        claimed(working, Share(2, 3, 1)),
    ):
        pass
    with pytest.raises(UserError, match=r"a job with shard=2/3 is at work"), claimed(working, Share(1, 2, 1)):
        pass


def test_only_leftovers_of_the_own_share_go(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    names = [f".tmp-shard000{job}of0002-chunk000001x0002-samples0000to0003.parquet.77" for job in (1, 2)]
    for name in names:
        (tmp_path / "rollouts" / name).touch()
    with claimed(tmp_path, Share(1, 2, 2)):
        assert [path.name for path in (tmp_path / "rollouts").iterdir()] == names[1:]
