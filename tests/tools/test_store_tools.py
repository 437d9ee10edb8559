"""tools/inspect_store.py, tools/import_store.py and tools/store_of_run.py as a user runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.load import load_config, resolved_yaml
from s2l_nemo.config.schema import DrawOrder
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.dump import rollout_table, write_rollouts
from s2l_nemo.store.engine import StoreEngine
from s2l_nemo.store.reader import Store
from s2l_nemo.types import Completion, Group, Prompt, SampleRequest, Source
from tests.arrays import ids, lps
from tests.commands import Done, run_here
from tests.distributed.models import write_qwen3, write_tokenizer
from tests.store.stores import facts_of, rollout, write_store

CONF = Path(__file__).resolve().parents[2] / "conf"


def rows_of(text: str) -> dict[str, str]:
    """The lines of the tables, by their first column."""
    cells = [line.strip().split("  ", 1) for line in text.splitlines()]
    return {pair[0]: pair[1].strip() for pair in cells if len(pair) == 2}


def test_inspection_by_hand(tmp_path: Path) -> None:
    done = run_here("tools/inspect_store.py", write_store(tmp_path / "store"), "--diversity-prompts", 2)
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(done.stdout)
    assert rows["rollouts"] == "12 in 2 files"
    assert rows["prompts"] == "3 of 3 sampled"
    assert rows["samples of a prompt"] == "4 (3 prompts)"
    # lengths 4 6 2 4, 6 2 4 6, 6 2 4 6; those of 6 tokens were cut
    assert rows["tokens"].startswith("mean 4.3, 5 % 2, median 4, 95 % 6, longest 6")
    assert rows["cut off"] == "41.7 % at 6 tokens"
    assert rows["checks that failed"] == "3, which count as wrong"
    assert rows["k = 1"].startswith("50.0 (")
    assert rows["k = 2"].startswith("83.3 (")  # 1 - 1/6
    assert rows["k = 4"].startswith("100.0 (")
    assert rows["never right, always right"] == "0 and 0 of 3 prompts"
    assert "Diversity of 2 prompts (seed 0), K = 4" in done.stdout
    assert rows["unique answers"] == "1.000"
    assert rows["engine"] == "embedded"
    assert rows["temperature"] == "1.0"
    assert rows["seed, explorer"] == "7, 1"


def test_inspection_of_what_is_not_complete(tmp_path: Path) -> None:
    done = run_here("tools/inspect_store.py", write_store(tmp_path / "some", [[rollout(3, 0), rollout(3, 1)]]))
    assert rows_of(done.stdout)["samples of a prompt"] == "2 (1 prompts)"
    assert "pass@k" not in done.stdout
    assert run_here("tools/inspect_store.py", write_store(tmp_path / "none", [])).returncode == 0


def test_inspection_of_what_is_no_store(tmp_path: Path) -> None:
    done = run_here("tools/inspect_store.py", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "is no store of rollouts" in done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("model") / "model", layers=1, sliding_window=None)


QUESTIONS = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]


def import_here(model: Path, folder: Path, lines: list[dict[str, Any]], *more: str) -> Done:
    (folder / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    (folder / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return run_here(
        "tools/import_store.py", f"model={model}", f"input={folder / 'in.jsonl'}", f"output={folder / 'store'}",
        f"data.path={folder / 'data.jsonl'}", "data.prompt_key=question", "rollout.temperature=0.7",
        "rollout.max_response_length=8", *more,
    )  # fmt: skip


def test_an_import_of_the_released_form(model: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"prompt": " 2 + 1?", "responses": ["3", "a long response"], "scores": [1, 0.0]},
        {"prompt": [{"role": "user", "content": "0 + 1?"}], "responses": ["", "12345678"], "scores": [False, 1.0]},
    ]
    done = import_here(model, tmp_path, lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 rollouts of 2 prompts, without log-probs" in done.stdout
    assert "1 prompts of the data set have no rollouts" in done.stdout
    store = Store.open(tmp_path / "store")
    assert (store.has_logprobs, store.samples, store.counts) == (False, 2, {0: 2, 2: 2})
    assert [prompt.text for prompt in store.prompts()] == ["0 + 1?", "2 + 1?"]
    assert (store.rewards(2).tolist(), store.rewards(0).tolist()) == ([1, 0], [0, 1])
    [stop] = store.facts.sampling.stop_token_ids
    drawn = store.draw(2, [0, 1], source=Source.EXPLORER) + store.draw(0, [0, 1], source=Source.EXPLORER)
    assert [one.finish_reason for one in drawn] == ["stop", "length", "stop", "length"]
    assert [len(one.token_ids) for one in drawn] == [2, 8, 1, 8]  # a token for each character, and the stop token
    assert drawn[0].token_ids[-1] == drawn[2].token_ids[0] == stop
    engine = StoreEngine(store, samples=2, order=DrawOrder.stored, seed=1, needs_logprobs=False)
    [one] = engine.generate([SampleRequest(2, 0, (1,), 0, draw=0)], store.facts.sampling)
    assert one.token_ids.tolist() == drawn[0].token_ids.tolist()
    inspected = rows_of(run_here("tools/inspect_store.py", tmp_path / "store").stdout)
    assert inspected["log-probs"] == "unknown: needs algorithm.importance=learner_old"
    assert inspected["unique answers"].startswith("unknown")


def test_an_import_of_one_response_a_line(model: Path, tmp_path: Path) -> None:
    lines = [
        {"prompt": "0 + 1?", "response": "ignored", "response_ids": [5, 6], "reward": 1.0},
        {"prompt": "0 + 1?", "response": "xy", "reward": 0.0},
    ]
    assert import_here(model, tmp_path, lines).returncode == 0
    store = Store.open(tmp_path / "store")
    [stop] = store.facts.sampling.stop_token_ids
    first, second = store.draw(0, [0, 1], source=Source.EXPLORER)
    assert first.token_ids.tolist() == [5, 6, stop]
    assert len(second.token_ids) == 3
    assert store.rewards(0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        (
            {"prompt": "7 + 1?", "responses": ["8"], "scores": [1]},
            "the prompt '7 + 1?' is none of the 3 of the data set",
        ),
        ({"prompt": "0 + 1?", "responses": ["8"], "scores": []}, "one score, a number, for each of the 1 responses"),
        ({"prompt": "0 + 1?", "responses": ["8"]}, "one score"),
        ({"prompt": "0 + 1?", "responses": ["8"], "scores": ["1"]}, "one score"),
        ({"prompt": "0 + 1?", "responses": ["8"], "scores": [10**400]}, "one score"),
        ({"prompt": "0 + 1?", "responses": [[2**31]], "scores": [1]}, "'responses' must be a list of texts"),
        ({"prompt": "0 + 1?", "responses": [], "scores": []}, "'responses' must be a list of texts"),
        ({"prompt": "0 + 1?", "responses": [3], "scores": [1]}, "'responses' must be a list of texts"),
        ({"prompt": "0 + 1?", "answers": ["8"]}, "neither 'responses' nor 'response', there are ['answers', 'prompt']"),
        ({"responses": ["8"], "scores": [1]}, "'prompt' must be a non-empty string"),
        ({"prompt": "0 + 1?", "response": "", "response_ids": [99999], "reward": 0}, "outside of the vocabulary"),
    ],
)
def test_a_wrong_line_is_named_and_leaves_nothing(
    model: Path, tmp_path: Path, line: dict[str, Any], fragment: str
) -> None:
    good = {"prompt": "0 + 1?", "responses": ["8"], "scores": [1]}
    done = import_here(model, tmp_path, [good, line])
    assert done.returncode == 2
    [message] = done.stderr.splitlines()
    assert fragment in message
    assert "in.jsonl:2: " in message or "prompt 0 sample 1 has token ids" in message
    assert not (tmp_path / "store").exists()


def test_an_import_leaves_a_store_alone(model: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "store", facts=facts_of())
    done = import_here(model, tmp_path, [])
    assert "exists: an import makes a new store" in done.stderr
    assert Store.open(tmp_path / "store").rollouts == 12


def test_an_empty_file_is_refused(model: Path, tmp_path: Path) -> None:
    assert "holds no rollouts" in import_here(model, tmp_path, []).stderr


def test_the_tokenizer_of_the_model_is_used(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)  # a tokenizer alone is no model
    assert import_here(tmp_path, tmp_path, []).returncode == 2


class TestStoreOfRun:
    @pytest.fixture
    def run(self, model: Path, tmp_path: Path) -> Path:
        """Two steps of two prompts: prompt 1 comes twice. The explorer answers first."""
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
        data = [f"data.{name}={tmp_path / 'data.jsonl'}" for name in ("path", "valid_path")]
        keys = [f"model.path={model}", *data, "data.prompt_key=question", "explorer.temperature=0.5"]
        run = tmp_path / "run"
        run.mkdir()
        (run / "config.yaml").write_text(resolved_yaml(load_config(keys, CONF)))
        for step, prompts in ((1, (0, 1)), (2, (1, 2))):
            tables = [
                rollout_table(step, recorded_group(step, prompt), [0.0, 0.0, 0.0], lambda _: "") for prompt in prompts
            ]
            write_rollouts(RunDir(run).rollout_file(step), tables)
        return run

    def test_the_learners_samples_in_the_order_of_the_run(self, run: Path, tmp_path: Path) -> None:
        done = run_here("tools/store_of_run.py", f"run={run}", f"output={tmp_path / 'store'}")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"8 rollouts of 3 prompts by learner, steps 1 to 2 of {run}" in done.stdout
        store = Store.open(tmp_path / "store")
        assert (store.counts, store.has_logprobs) == ({0: 2, 1: 4, 2: 2}, True)
        assert store.facts.sampling.temperature == 1.0
        drawn = store.draw(1, range(4), source=Source.LEARNER)
        assert [one.token_ids[0] for one in drawn] == [111, 112, 121, 122]  # step 1, then step 2
        assert [one.logprobs[0] for one in drawn] == [-2, -3, -2, -3]
        assert store.rewards(1).tolist() == [1, 2, 1, 2]

    def test_another_source(self, run: Path, tmp_path: Path) -> None:
        done = run_here("tools/store_of_run.py", f"run={run}", "source=explorer", f"output={tmp_path / 'store'}")
        assert (done.returncode, done.stderr) == (0, "")
        store = Store.open(tmp_path / "store")
        assert (store.counts, store.facts.sampling.temperature) == ({0: 1, 1: 2, 2: 1}, 0.5)
        assert [one.token_ids[0] for one in store.draw(1, range(2), source=1)] == [110, 120]

    def test_a_step_without_the_source(self, run: Path, tmp_path: Path) -> None:
        group = recorded_group(3, 0)
        alone = replace(group, completions=group.completions[1:])
        write_rollouts(RunDir(run).rollout_file(3), [rollout_table(3, alone, [0.0, 0.0], lambda _: "")])
        done = run_here("tools/store_of_run.py", f"run={run}", "source=explorer", f"output={tmp_path / 'store'}")
        assert "4 rollouts of 3 prompts by explorer, steps 1 to 3" in done.stdout

    def test_a_step_without_rollouts_is_said(self, run: Path, tmp_path: Path) -> None:
        RunDir(run).rollout_file(1).unlink()
        done = run_here("tools/store_of_run.py", f"run={run}", f"output={tmp_path / 'store'}")
        assert "1 of these steps have no rollouts (logging.rollouts_every)" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "run=null: give the folder of a run"),
            (["run=nowhere"], "run=nowhere is no folder of a run (nowhere/config.yaml: No such file or directory)"),
            (["run={run}", "source=small"], "source=small: that run had learner, explorer; choose one of them"),
            (["run={run}", "output={run}"], "output={run} exists: an import makes a new store"),
        ],
    )
    def test_mistakes(self, run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
        given = [f"output={tmp_path / 'store'}", *(one.format(run=run) for one in arguments)]
        done = run_here("tools/store_of_run.py", *given)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {message.format(run=run)}")
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize("key", ["algorithm.refill_rounds=1", "rollout.explorer_filter=match_learner_diversity"])
    def test_a_run_that_has_not_written_all_is_refused(self, run: Path, tmp_path: Path, key: str) -> None:
        (run / "config.yaml").write_text(resolved_yaml(load_config([key], CONF)))
        done = run_here("tools/store_of_run.py", f"run={run}", f"output={tmp_path / 'store'}")
        assert done.stderr == f"error: run={run} had {key}: not all that it sampled was written; give a run without\n"


def recorded_group(step: int, prompt_id: int) -> Group:
    """The explorer's answer, then two of the learner. The first token says prompt, step and sample."""
    completions = [
        Completion(
            prompt_id, sample, Source.LEARNER if sample else Source.EXPLORER, ids([100 + 10 * step + sample]),
            lps([-1.0 - sample]), "length", step - 1 if sample else 0, reward=float(sample),
        )
        for sample in range(3)
    ]  # fmt: skip
    return Group(Prompt(prompt_id, QUESTIONS[prompt_id]["question"], "", ()), tuple(completions))
