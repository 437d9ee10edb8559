"""What a run was begun with is replaced before it goes on: the command names it, with exit code 2 and before NeMo."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config, resolved_yaml
from s2l_nemo.records.checkpoints import publish_checkpoint
from s2l_nemo.records.directory import create_run_dir
from s2l_nemo.records.identity import settle_identity
from s2l_nemo.trainer.setup import load_inputs
from tests.commands import ROOT, run_here
from tests.distributed.models import write_qwen3

REWARD = "def even(response, answer, prompt):\n    return len(response) % 2\n"
TEMPLATE = "{% for turn in messages %}<|im_start|>{{ turn.role }} {{ turn.content }}<|im_end|>{% endfor %}"


def write_rows(path: Path, rows: int, *, plus: int = 0) -> None:
    lines = [json.dumps({"prompt": f"What is {row} + 1?", "answer": str(row + 1 + plus)}) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Begun:
    """A run of one step, as far as its folder tells, and the files that it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.learner = write_qwen3(folder / "learner", layers=1)
        write_qwen3(folder / "explorer", layers=1, hidden=32, seed=1)
        for model in ("learner", "explorer"):
            self.set_template(model, TEMPLATE)
        (folder / "identity_rewards.py").write_text(REWARD)
        write_rows(folder / "train.jsonl", 40)
        write_rows(folder / "valid.jsonl", 8)
        (folder / "benchmarks").mkdir()
        write_benchmark(folder, "7")
        self.arguments = [
            "algorithm.steps=2", "algorithm.prompts_per_step=2", "algorithm.group_size=2", "model.micro_batch_size=2",
            "rollout.max_prompt_length=60", "rollout.max_response_length=8", "validation.prompts=8",
            "validation.samples=1", f"model.path={self.learner}", f"explorer.path={folder / 'explorer'}",
            f"data.path={folder / 'train.jsonl'}", f"data.valid_path={folder / 'valid.jsonl'}",
            "rewards.fn=identity_rewards:even", f"run.dir={self.run}", "validation.sets=[own]",
            f"validation.data={folder / 'benchmarks'}", "validation.options.own.prompt=plain", "trainer.devices=1",
            "validation.options.own.max_tokens=8",
        ]  # fmt: skip
        cfg = load_config(self.arguments, ROOT / "conf")
        inputs = load_inputs(cfg, check_model_files(cfg))
        run_dir, _ = create_run_dir(cfg.run.dir, cfg.run.resume, resolved_yaml(cfg))
        settle_identity(run_dir.path, inputs.identity, [], None)
        run_dir.checkpoint_tmp(1).mkdir(parents=True)
        (run_dir.checkpoint_tmp(1) / "weights").write_text("weights")
        publish_checkpoint(run_dir.checkpoint_tmp(1), run_dir.checkpoint(1))

    def set_template(self, model: str, template: str) -> None:
        file = self.folder / model / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))

    def go_on(self, *arguments: str) -> str:
        """The line with which the command refuses to go on."""
        done = run_here("recipes/train_s2l.py", *self.arguments, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        return line


def write_benchmark(folder: Path, answer: str) -> None:
    rows = [{"question": "What is 3 + 4?", "answer": answer}, {"question": "What is 1 + 1?", "answer": "2"}]
    (folder / "benchmarks" / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    monkeypatch.syspath_prepend(tmp_path)
    return Begun(tmp_path)


def lower_case(begun: Begun) -> None:
    for model in ("learner", "explorer"):
        file = begun.folder / model / "tokenizer.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": {"type": "Lowercase"}}))


CHANGES: dict[str, tuple[Callable[[Begun], object], str]] = {
    "f06 learner": (lambda run: write_weights(run, seed=5), "another learner (model.path="),
    "f07 training data": (lambda run: write_rows(run.folder / "train.jsonl", 20), "rows 20, before rows 40"),
    "training answers": (lambda run: write_rows(run.folder / "train.jsonl", 40, plus=1), "another training_data (data"),
    "f08 validation data": (
        lambda run: write_rows(run.folder / "valid.jsonl", 8, plus=1),
        "another validation_data (data.valid_path=",
    ),
    "validation data cut": (lambda run: write_rows(run.folder / "valid.jsonl", 4), "rows 4, before rows 8+"),
    "benchmark": (lambda run: write_benchmark(run.folder, "8"), "another validation_data/own (own of validation.data="),
    "tokenizer": (lower_case, "another tokenizer (that of model.path="),
    "template": (lambda run: run.set_template("learner", TEMPLATE + "Now: "), "another template (that of model.path="),
    "reward": (
        lambda run: (run.folder / "identity_rewards.py").write_text(REWARD + "# other\n"),
        "another reward (rewards.fn=identity_rewards:even",
    ),
}


def write_weights(begun: Begun, seed: int) -> None:
    other = write_qwen3(begun.folder / "other", layers=1, seed=seed)
    (other / "model.safetensors").replace(begun.learner / "model.safetensors")


@pytest.mark.parametrize("case", CHANGES)
def test_f06_f07_f08_what_was_replaced_is_named(begun: Begun, case: str) -> None:
    change, message = CHANGES[case]
    change(begun)
    had_nemo = "nemo" in sys.modules
    before = {path: path.read_bytes() for path in begun.run.rglob("*") if path.is_file()}
    line = begun.go_on()
    assert line.startswith(f"error: run.dir={begun.run} began with another ")
    assert message in line
    assert line.count("began with another") + line.count(", another ") == 1
    part = message.partition("another ")[2].split()[0].partition("/")[0] if "another" in message else ""
    assert f"run.allow_changed=[{part}" in line
    assert {path: path.read_bytes() for path in begun.run.rglob("*") if path.is_file()} == before
    assert ("nemo" in sys.modules) == had_nemo


def test_all_that_was_replaced_is_named_at_once(begun: Begun) -> None:
    for change, _ in CHANGES.values():
        change(begun)
    line = begun.go_on()
    assert line.endswith("run.allow_changed=[learner,tokenizer,template,training_data,validation_data,reward]")
    others = begun.go_on("run.allow_changed=[learner,template,reward]")
    assert "another learner" not in others
    assert "another training_data" in others


def test_an_unknown_name_in_allow_changed_is_one_line(begun: Begun) -> None:
    assert begun.go_on("run.allow_changed=[weights]") == (
        "error: run.allow_changed=['weights']: expected list of learner | explorer | training_data | validation_data | "
        "tokenizer | template | reward, [a,b]"
    )
