"""A run's checkpoints as models: for training, as explorer, for conversion, and evaluated step by step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.steps import models_of_run, read_curve
from s2l_nemo.models.open import open_model
from s2l_nemo.records.metrics import read_metrics
from tests.commands import ROOT, Done, run_here, run_process
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_model_formats import STEPS
from tests.distributed.test_training import BASE, layout, train

TRAINED = 2  # steps


@dataclass(frozen=True)
class Place:
    folder: Path
    run: Path
    metrics: list[dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of 2 steps with TP 2 and PP 1, all checkpoints kept, and two benchmarks."""
    folder = tmp_path_factory.mktemp("run_models")
    learner = write_qwen3(folder / "learner", layers=2)
    explorer = write_qwen3(folder / "explorer", seed=1, hidden=32, layers=2)
    (folder / "data").mkdir()
    for name, problems in (("sums", 6), ("more", 2)):
        rows = [{"question": f"{name} {i} + 2 = ?", "answer": i + 2} for i in range(problems)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        *BASE, *layout(2, 1, 2), f"algorithm.steps={TRAINED}", "algorithm.schedule.t_mix=2", "validation.every=2",
        f"model.path={learner}", f"explorer.path={explorer}", f"run.dir={folder / 'run'}", "run.export_hf=true",
        "validation.sets=[sums]", f"validation.data={folder / 'data'}", "validation.options.sums.k=2",
        "validation.options.sums.prompt=plain", "checkpoint.best=validation/sums/pass@1",
    ]  # fmt: skip
    run_ranks(train, 2, overrides)
    return Place(folder, folder / "run", read_metrics(folder / "run" / "metrics.jsonl"))


def checkpoint(place: Place, step: int = TRAINED) -> Path:
    return place.run / "checkpoints" / f"step_{step:06d}"


def test_the_last_checkpoint_converts_to_what_the_run_exported(place: Place, tmp_path: Path) -> None:
    for source in (checkpoint(place), place.run):
        done = run_process("tools/convert_nemo_to_hf.py", "--input", source, "--output", tmp_path / source.name)
        assert done.returncode == 0, done.stderr
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            assert (tmp_path / source.name / name).read_bytes() == (place.run / "hf" / name).read_bytes()


def test_a_checkpoint_starts_another_run_as_learner_and_as_explorer(place: Place, tmp_path: Path) -> None:
    """Bit for bit as the Hugging Face folder that was exported of the same weights, at another layout."""
    explorer, metrics = checkpoint(place, 1), []
    for name, learner in (("ours", checkpoint(place)), ("hf", place.run / "hf")):
        overrides = [*BASE, *STEPS, f"model.path={learner}", f"explorer.path={explorer}", f"run.dir={tmp_path / name}",
                     *layout(1, 2, 2)]  # fmt: skip
        result = run_ranks(train, 2, overrides)[0]
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        metrics.append([{key: value for key, value in line.items() if "time" not in key and "throughput" not in key
                         and "seconds" not in key} for line in lines])  # fmt: skip
        assert result["explorer"]
        assert all(line["logprob_diff/learner"] < 1e-5 for line in lines)
    assert metrics[0] == metrics[1]
    assert (tmp_path / "ours" / "hf" / "model.safetensors").read_bytes() == (
        tmp_path / "hf" / "hf" / "model.safetensors"
    ).read_bytes()


def test_the_run_asked_its_set_and_kept_the_best(place: Place) -> None:
    found = [line["validation/sums/pass@1"] for line in place.metrics]
    assert found[0] is None  # validation.every=2
    assert 0 <= found[1] <= 1
    assert os.readlink(place.run / "checkpoints" / "best") == f"step_{TRAINED:06d}"
    assert open_model("model.path", str(place.run / "checkpoints" / "best")).shape.layers == 2


def test_the_folder_of_a_run_is_no_model(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the folder of a run: give one of its checkpoints"):
        open_model("model.path", str(place.run))
    done = evaluate(place, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"model={place.run} is the folder of a run: add steps=all" in done.stderr


# ---- step by step


def arguments(place: Place, root: Path, *more: str) -> list[str]:
    return [
        "recipes/evaluate.py", f"model={place.run}", "benchmarks=[sums,more]", "k=2", "evaluate.batch_rows=1",
        "evaluate.max_tokens=12", f"evaluate.data={place.folder / 'data'}", f"evaluate.dir={root}", *more,
    ]  # fmt: skip


def evaluate(place: Place, root: Path, *more: str) -> Done:
    return run_here(*arguments(place, root, *more))


def files(root: Path) -> dict[str, object]:
    """All files by path, in which run_TIME has become run, and without what a commit changes."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            parts = ["run" if part.startswith("run_") else part for part in path.relative_to(root).parts]
            content: Any = path.read_bytes()
            if parts[-1] == "config.txt":
                content = yaml.safe_load(content)
                content.get("versions", {}).pop("git", None)
            found["/".join(parts)] = content
    return found


@pytest.fixture(scope="module")
def whole(place: Place) -> Mapping[str, object]:
    done = evaluate(place, place.folder / "whole", "steps=all")
    assert (done.returncode, done.stderr) == (0, "")
    assert "steps       0, 1, 2\n" in done.stdout
    return files(place.folder / "whole")


def test_every_step_and_the_curve(place: Place, whole: Mapping[str, object]) -> None:
    per_step = {f"step_{step:06d}" for step in range(TRAINED + 1)}
    assert {name for name in whole if name.startswith("result/")} == {
        "result/run/steps.json", "result/run/curve_over_steps.png", "result/run/curve_over_prompts.png",
        *(f"result/run/{step}/{name}" for step in per_step
          for name in ("sums.json", "more.json", "summary.json", "pass_at_k.png")),
    }  # fmt: skip
    (folder,) = (place.folder / "whole" / "result").iterdir()
    curve = read_curve(folder)
    assert [(point.step, point.prompts) for point in curve.points] == [(0, 0), (1, 4), (2, 8)]
    assert all(list(point.results) == ["sums", "more"] for point in curve.points)
    raw = [whole[f"output/run/{step}/sums_raw.jsonl"] for step in sorted(per_step)]
    assert len({str(one) for one in raw}) == TRAINED + 1  # other weights say other things


def test_a_step_is_what_the_evaluation_of_its_model_is(place: Place, whole: Mapping[str, object]) -> None:
    """Step 0 is the learner's folder, the last one is what the run exported."""
    for step, model in ((0, place.folder / "learner"), (TRAINED, place.run / "hf")):
        root = place.folder / f"alone{step}"
        done = evaluate(place, root, f"model={model}", "name=run")
        assert done.returncode == 0, done.stderr
        alone = files(root)
        for name in ("output/run/{}sums_raw.jsonl", "result/run/{}sums.json", "result/run/{}more.json"):
            assert whole[name.format(f"step_{step:06d}/")] == alone[name.format("")]


def test_killed_and_started_again_it_gives_the_same_files(place: Place, whole: Mapping[str, object]) -> None:
    root = place.folder / "killed"
    command = [sys.executable, *arguments(place, root, "steps=all")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(root.glob("output/run_*/step_000001/sums_raw.jsonl")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
    again = evaluate(place, root, "steps=all")
    assert (again.returncode, again.stderr) == (0, "")
    assert "continues in" in again.stdout
    assert files(root) == whole
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.jsonl")}
    assert evaluate(place, root, "steps=all").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jsonl")} == times
    assert files(root) == whole


def test_some_steps_now_and_the_others_later(place: Place, whole: Mapping[str, object]) -> None:
    root = place.folder / "parts"
    assert evaluate(place, root, "steps=[2,0]").returncode == 0
    (folder,) = (root / "result").iterdir()
    assert [point.step for point in read_curve(folder).points] == [0, 2]
    assert evaluate(place, root, "steps=all").returncode == 0
    assert files(root) == whole


def test_mistakes(place: Place, whole: Mapping[str, object], tmp_path: Path) -> None:
    del whole
    for more, message in (
        (["steps=[7]"], "has no checkpoint of step 7; there are 0, 1, 2"),
        (["steps=all", f"model={place.folder / 'learner'}"], "is no folder of a run"),
        (["steps=all", "benchmarks=[nothing]"], "no benchmark 'nothing'"),
        (["steps=all", "rewards.fn=no_such_module:f"], "no_such_module"),
    ):
        done = evaluate(place, tmp_path / "mistakes", *more)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "mistakes").exists()


def test_a_run_that_begins_anew_in_its_folder_is_noticed(place: Place, whole: Mapping[str, object]) -> None:
    del whole
    moved = place.folder / "again" / "run"
    shutil.copytree(place.run, moved, symlinks=True)
    shutil.copytree(place.folder / "whole", place.folder / "anew")
    for config in (place.folder / "anew").glob("output/*/config.txt"):
        config.write_text(config.read_text().replace(f"model: {place.run}", f"model: {moved}"))
    same = evaluate(place, place.folder / "anew", "steps=all", f"model={moved}")
    assert same.returncode == 0, same.stderr
    shutil.rmtree(moved / "checkpoints" / "step_000002")
    shutil.copytree(checkpoint(place, 1), moved / "checkpoints" / "step_000002")
    marker = moved / "checkpoints" / "step_000002" / "COMPLETE.json"
    marker.write_text(marker.read_text().replace('"step": 1', '"step": 2'))
    other = evaluate(place, place.folder / "anew", "steps=all", f"model={moved}")
    assert other.returncode == 2
    assert "has other weights than those of step 2" in other.stderr


def test_without_the_model_of_step_0(place: Place, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(place.run, moved, symlinks=True)
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(place.folder / "learner"), str(tmp_path / "gone")))
    assert [one.step for one in models_of_run(moved, ["all"])] == [0, 1, 2]
    done = evaluate(place, tmp_path / "out", "steps=all", f"model={moved}", "benchmarks=more", "k=1")
    assert done.returncode == 0, done.stderr
    assert f"without step 0, the model before training: step 0 of {moved}: model.path=" in done.stdout
    asked = evaluate(place, tmp_path / "out", "steps=[0,1]", f"model={moved}", "benchmarks=more")
    assert asked.returncode == 2
    assert "gone is not a folder" in asked.stderr
