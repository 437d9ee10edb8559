"""Names of the hub in every command: what is fetched, what a plan says, and one line without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from s2l_nemo.records.checkpoints import publish_checkpoint
from s2l_nemo.records.directory import RunDir, pin_commits
from tests.commands import Done, run_here, run_process
from tests.distributed.models import write_qwen3
from tests.hub.stand_in import StandIn

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens
ROW = b'{"prompt": "1+1?", "answer": "2"}\n'
NAMED = [
    "model.path=me/learner", "explorer.path=me/explorer", "data.path=me/data", "data.valid_path=me/data:test",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "learner": write_qwen3(folder / "learner", seed=0, layers=2, sliding_window=None, shards=2),
        "explorer": write_qwen3(folder / "explorer", seed=1, layers=2, hidden=32, sliding_window=None),
    }


@pytest.fixture
def stocked(hub: StandIn, models: dict[str, Path]) -> dict[str, str]:
    """Puts both models and a data set on the hub. Returns their commits by name."""
    commits = {}
    for name, folder in models.items():
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        (commits[name],) = hub.add(f"models/me/{name}", files | {"model.py": b"raise SystemExit"})
    (commits["data"],) = hub.add("datasets/me/data", {"train.jsonl": ROW * 4, "test.jsonl": ROW})
    return commits


def row_of(done: Done, start: str) -> list[str]:
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(start + " ")]
    return line.removeprefix(start).split()


def test_a_dry_run_says_what_would_be_downloaded_and_downloads_no_weights(
    hub: StandIn, stocked: dict[str, str], models: dict[str, Path]
) -> None:
    done = run_here("recipes/train_s2l.py", *NAMED, "run.dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = [path for path in models["explorer"].iterdir() if path.suffix in (".json", ".safetensors", ".txt")]
    size = f"{sum(path.stat().st_size for path in wanted) / 1e6:.1f}"
    lacking = f"{sum(path.stat().st_size for path in wanted if path.name != 'config.json') / 1e6:.1f}"
    assert row_of(done, "explorer.path=me/explorer") == [stocked["explorer"][:12], size, "MB", lacking, "MB"]
    assert row_of(done, "data.valid_path=me/data:test") == [stocked["data"][:12], "0.0", "MB", "0.0", "MB"]
    assert "(me/learner on the hub)" in done.stdout
    assert set(hub.fetched()) == {"config.json", "model.safetensors.index.json"}


@pytest.mark.usefixtures("stocked")
def test_a_plan_needs_config_json_only(hub: StandIn) -> None:
    done = run_here("tools/plan.py", "conf=train_s2l", *NAMED[:2], "gpu=H100")
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.fetched() == ["config.json", "config.json"]


@pytest.mark.usefixtures("stocked")
def test_conversion_takes_a_name(hub: StandIn, models: dict[str, Path], tmp_path: Path) -> None:
    done = run_here("tools/convert_hf_to_nemo.py", "--input", "me/learner", "--output", tmp_path / "nemo")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_here("tools/verify_checkpoint.py", "me/learner", tmp_path / "nemo")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_here("tools/verify_checkpoint.py", models["learner"], tmp_path / "nemo")
    assert "the same weights, bit for bit" in done.stdout
    hub.asked.clear()
    arguments = ("--input", tmp_path / "nemo", "--output", tmp_path / "hf", "--hf-files", "me/explorer")
    run_here("tools/convert_nemo_to_hf.py", *arguments)
    assert "config.json" in hub.fetched()
    assert not [name for name in hub.fetched() if name.endswith(".safetensors")]


def test_an_evaluation_is_named_after_the_model_and_pins_its_commit(
    hub: StandIn, stocked: dict[str, str], tmp_path: Path
) -> None:
    hub.add("datasets/me/benchmarks", {"sums.jsonl": b'{"question": "1+1?", "answer": "2"}\n'})
    done = run_here(
        "recipes/evaluate.py", "model=me/explorer@main", "benchmarks=[sums]", "k=1", "evaluate.max_tokens=4",
        "evaluate.data=me/benchmarks", f"evaluate.dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (config,) = (tmp_path / "out" / "output").glob("explorer_*/config.txt")
    facts = yaml.safe_load(config.read_text())
    assert facts["model"] == "me/explorer@main"
    assert facts["versions"]["hub"]["models/me/explorer@main"] == stocked["explorer"]


def test_a_resumed_run_takes_the_commits_that_it_began_with(
    hub: StandIn, stocked: dict[str, str], tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.checkpoint_tmp(3).mkdir(parents=True)
    old = "0123456789" * 4
    run_dir.versions.write_text(json.dumps({"packages": {"s2l_nemo": "0"}, "hub": {"models/me/learner@main": old}}))
    named = ["recipes/train_s2l.py", *NAMED, f"run.dir={run_dir.path}", "run.dry_run=true"]
    assert row_of(run_here(*named), NAMED[0])[0] == stocked["learner"][:12]  # without a checkpoint it begins anew
    (run_dir.checkpoint_tmp(3) / "weights").touch()
    publish_checkpoint(run_dir.checkpoint_tmp(3), run_dir.checkpoint(3))
    repository = hub.repositories["models/me/learner"]
    repository.commits[old] = repository.commits[stocked["learner"]]
    assert row_of(run_here(*named), NAMED[0])[0] == old[:12]
    del repository.commits[old]
    hub.asked.clear()
    assert row_of(run_here(*named), NAMED[0])[0] == old[:12]  # its config.json and listing are in the cache
    assert not [path for _, path, _ in hub.asked if "me/learner/" in path]


def test_a_damaged_record_of_commits_is_one_line(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    pin_commits(tmp_path)
    run_dir.checkpoint_tmp(3).mkdir(parents=True)
    publish_checkpoint(run_dir.checkpoint_tmp(3), run_dir.checkpoint(3))
    run_dir.versions.write_text("{")
    done = run_here("recipes/train_s2l.py", f"run.dir={tmp_path}", "run.dry_run=true")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{run_dir.versions} is damaged" in done.stderr


COMMANDS = [
    ["recipes/train_s2l.py", "model.path=me/learner"],
    ["recipes/train_s2l.py", "explorer.path=me/explorer"],
    ["recipes/train_s2l.py", "data.path=me/data", "data.valid_path=me/data:test"],
    ["recipes/evaluate.py", "model=me/learner", "benchmarks=[sums]", "evaluate.data=DATA"],
    ["recipes/evaluate.py", "model=DATA", "benchmarks=[sums]", "evaluate.data=me/benchmarks"],
    ["recipes/sample_explorer.py", "model=me/explorer", "output=OUTPUT"],
    ["recipes/sample_explorer.py", "data.path=me/data", "data.valid_path=me/data:test", "output=OUTPUT"],
    ["tools/import_store.py", "input=DATA/sums.jsonl", "model=me/explorer", "output=OUTPUT"],
    ["tools/plan.py", "conf=train_s2l", "model.path=me/learner"],
    ["tools/simulate.py", "conf=train_s2l", "model.path=me/learner"],
    ["tools/convert_hf_to_nemo.py", "--input", "me/learner", "--output", "OUTPUT"],
    ["tools/convert_nemo_to_hf.py", "--input", "DATA", "--hf-files", "me/learner", "--output", "OUTPUT"],
    ["tools/verify_checkpoint.py", "me/learner", "me/explorer"],
    ["tools/prepare_data.py", "--source", "me/data", "--output", "OUTPUT/x.jsonl"],
]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{Path(command[0]).stem} {command[1]}")
def test_without_network_a_name_is_one_line(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sums.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    words = {"DATA": tmp_path / "data", "OUTPUT": tmp_path / "output"}
    local = [f"model.path={models['learner']}", f"explorer.path={models['explorer']}", f"run.dir={tmp_path / 'run'}"]
    if command[0] == "recipes/train_s2l.py":
        command = [command[0], *local, "trainer.devices=1", *command[1:]]
    elif command[0] == "recipes/sample_explorer.py":
        command = [command[0], f"model={models['explorer']}", *command[1:]]
    elif command[0] in ("tools/plan.py", "tools/simulate.py"):
        command = [*command, f"explorer.path={models['explorer']}"]
    for word, path in words.items():
        command = [part.replace(word, str(path)) for part in command]
    done = run_here(*command)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"is no file or folder here, {NOWHERE} cannot be reached (Connection refused), and the cache" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("hub")
def test_a_dry_run_without_network_says_so_and_plans_with_public_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    done = run_here(
        "recipes/train_s2l.py", "--config-name", "paper", "run.dry_run=true", "model.path=Qwen/Qwen3-8B-Base"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "(public figures of Qwen3-8B: model.path=Qwen/Qwen3-8B-Base is no file or folder here" in done.stdout
    assert done.stdout.rstrip().endswith(": size unknown")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_environment_says_where_the_hub_is_and_whether_it_is_asked(tmp_path: Path, offline: str) -> None:
    environment = {
        "HF_ENDPOINT": NOWHERE, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline, "HF_TOKEN": "hf_secret",
    }  # fmt: skip
    done = run_process("recipes/train_s2l.py", "model.path=me/learner", environment=environment)
    why = "HF_HUB_OFFLINE is set" if offline == "1" else f"{NOWHERE} cannot be reached (Connection refused)"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: model.path=me/learner is no file or folder here, {why}, and the cache {tmp_path / 'hub'} does not "
        "hold its revision main: download it where there is a network, copy that cache here (HF_HOME), or give a "
        "folder\n"
    )
