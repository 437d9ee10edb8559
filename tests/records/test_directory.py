import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from s2l_nemo.config.schema import Config, Resume
from s2l_nemo.errors import UserError
from s2l_nemo.files import check_free_space, write_json_atomic, write_text_atomic
from s2l_nemo.records.checkpoints import publish_checkpoint
from s2l_nemo.records.directory import RunDir, check_run_dir, create_run_dir
from s2l_nemo.records.versions import _git_state


def config(**changes: object) -> str:
    """The default configuration as YAML; dots of keys are written as `__`."""
    values = json.loads(json.dumps(asdict(Config())))
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = values
        for name in sections:
            section = section[name]
        assert last in section
        section[last] = value
    return yaml.safe_dump(values)


def save(run_dir: RunDir, step: int) -> None:
    tmp = run_dir.checkpoint_tmp(step)
    tmp.mkdir(parents=True)
    (tmp / "weights").write_text("x")
    publish_checkpoint(tmp, run_dir.checkpoint(step))


def started(path: Path, step: int = 6, **changes: object) -> RunDir:
    run_dir, _ = create_run_dir(path, Resume.auto, config(**changes))
    save(run_dir, step)
    return run_dir


def tree(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("resume", [Resume.auto, Resume.never])
def test_a_new_directory_gets_config_and_versions(tmp_path: Path, resume: Resume) -> None:
    run_dir, checkpoint = create_run_dir(tmp_path / "runs" / "a", resume, config())
    assert checkpoint is None
    assert run_dir.config.read_text() == config()
    versions = json.loads(run_dir.versions.read_text())
    assert set(versions) == {"python", "packages", "git", "hub"}
    assert versions["packages"]["s2l_nemo"] == "0.1.0"
    assert versions["packages"]["torch"].startswith("2.")
    assert sorted(path.name for path in run_dir.path.iterdir()) == [".tmp-lock", "config.yaml", "versions.json"]


def test_names_follow_the_contract(tmp_path: Path) -> None:
    run_dir, _ = create_run_dir(tmp_path / "a", Resume.auto, config())
    assert run_dir.rollout_file(1) == tmp_path / "a/rollouts/step_000001.parquet"
    assert run_dir.checkpoint(1) == tmp_path / "a/checkpoints/step_000001"
    assert run_dir.metrics == tmp_path / "a/metrics.jsonl"
    assert run_dir.summary == tmp_path / "a/summary.json"


@pytest.mark.parametrize("resume", [Resume.auto, Resume.must])
def test_continues_from_the_newest_complete_checkpoint(tmp_path: Path, resume: Resume) -> None:
    run_dir = started(tmp_path, step=6)
    save(run_dir, 9)
    run_dir.checkpoint_tmp(12).mkdir()
    run_dir.rollouts.mkdir()
    for step in (9, 10):
        run_dir.rollout_file(step).touch()
    _, checkpoint = create_run_dir(tmp_path, resume, config(algorithm__steps=16))
    assert checkpoint == (9, run_dir.checkpoint(9))
    assert not run_dir.checkpoint_tmp(12).exists()
    assert [path.name for path in run_dir.rollouts.iterdir()] == ["step_000009.parquet"]


def test_r04_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path: Path) -> None:
    run_dir = started(tmp_path, step=3)
    save(run_dir, 6)
    save(run_dir, 9)
    flipped, truncated = (run_dir.checkpoint(step) / "weights" for step in (6, 9))
    flipped.write_text("y")
    truncated.write_text("")
    check_run_dir(tmp_path, Resume.must, config())  # reads no weights, and changes nothing
    said: list[str] = []
    _, checkpoint = create_run_dir(tmp_path, Resume.auto, config(), said.append)
    assert checkpoint == (3, run_dir.checkpoint(3))
    assert said == [
        f"damaged: {truncated} has 0 bytes, 1 were written; the checkpoint is set aside as {truncated.parent}.damaged",
        f"damaged: {flipped} holds other bytes than were written; the checkpoint is set aside as "
        f"{flipped.parent}.damaged",
    ]
    assert create_run_dir(tmp_path, Resume.auto, config(), said.append)[1] == checkpoint
    assert len(said) == 2


@pytest.mark.parametrize("resume", [Resume.auto, Resume.must])
def test_a_run_whose_checkpoints_are_all_damaged_is_not_emptied(tmp_path: Path, resume: Resume) -> None:
    run_dir = started(tmp_path)
    (run_dir.checkpoint(6) / "weights").write_text("y")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no complete checkpoint|nothing but damaged checkpoints"):
            create_run_dir(tmp_path, resume, config(), lambda text: None)
        assert (tmp_path / "checkpoints" / "step_000006.damaged" / "weights").read_text() == "y"


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_never_refuses_a_directory_with_a_run(tmp_path: Path, with_checkpoint: bool) -> None:
    run_dir, _ = create_run_dir(tmp_path, Resume.never, config())
    if with_checkpoint:
        save(run_dir, 1)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"run\.resume=never"):
        create_run_dir(tmp_path, Resume.never, config())
    assert tree(tmp_path) == before


def test_must_refuses_where_there_is_no_complete_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.resume=must"):
        create_run_dir(tmp_path / "new", Resume.must, config())
    assert not (tmp_path / "new").exists()
    run_dir = started(tmp_path / "run", step=1)
    (run_dir.checkpoint(1) / "COMPLETE.json").unlink()
    with pytest.raises(UserError, match=r"run\.resume=must"):
        create_run_dir(run_dir.path, Resume.must, config())


def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    started(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"run\.seed=1, now 2"):
        create_run_dir(tmp_path, Resume.auto, config(run__seed=2))
    assert tree(tmp_path) == before


def test_what_may_change_continues_and_is_recorded(tmp_path: Path) -> None:
    run_dir = started(tmp_path)
    changed = config(trainer__devices=2, checkpoint__keep=7)
    _, checkpoint = create_run_dir(tmp_path, Resume.auto, changed)
    assert checkpoint is not None
    assert run_dir.config.read_text() == changed


def test_fewer_steps_than_the_checkpoint_has_are_refused(tmp_path: Path) -> None:
    started(tmp_path, step=6, algorithm__schedule__t_mix=2)
    with pytest.raises(UserError, match=r"algorithm\.steps=4.*has done 6"):
        create_run_dir(tmp_path, Resume.auto, config(algorithm__steps=4, algorithm__schedule__t_mix=2))


def test_leftovers_of_a_crashed_start_are_removed(tmp_path: Path) -> None:
    run_dir, _ = create_run_dir(tmp_path, Resume.auto, config())
    run_dir.metrics.write_text('{"step": 1}\n')
    for folder in (run_dir.rollouts, run_dir.checkpoint(1), run_dir.tensorboard, run_dir.validation):
        folder.mkdir(parents=True)
        (folder / "part").touch()
    _, checkpoint = create_run_dir(tmp_path, Resume.auto, config(model__optim__lr=0.5))
    assert checkpoint is None
    assert set(tree(tmp_path)) == {".tmp-lock", "config.yaml", "versions.json"}


def test_a_start_killed_in_its_first_write_is_reused(tmp_path: Path) -> None:
    (tmp_path / ".tmp-versions.json.123").write_text("{")
    assert create_run_dir(tmp_path, Resume.auto, config())[1] is None


def test_a_finished_run_without_checkpoints_is_not_emptied(tmp_path: Path) -> None:
    run_dir, _ = create_run_dir(tmp_path, Resume.auto, config())
    write_json_atomic(run_dir.summary, {"steps": 9})
    with pytest.raises(UserError, match="finished run"):
        create_run_dir(tmp_path, Resume.auto, config())
    assert run_dir.summary.exists()


@pytest.mark.parametrize("resume", [Resume.auto, Resume.never, Resume.must])
def test_f29_a_foreign_directory_is_left_alone(tmp_path: Path, resume: Resume) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    (tmp_path / "config.yaml").write_text("a: 1")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"config\.yaml"):
        create_run_dir(tmp_path, resume, config())
    assert tree(tmp_path) == before


def test_a_check_refuses_the_same_and_changes_nothing(tmp_path: Path) -> None:
    run_dir = started(tmp_path / "run", step=2)
    run_dir.rollouts.mkdir()
    run_dir.rollout_file(3).write_text("to be done again")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years")
    before = tree(tmp_path)
    check_run_dir(run_dir.path, Resume.auto, config())
    check_run_dir(tmp_path / "new" / "run", Resume.never, config())
    for path, resume, seed, message in (
        (run_dir.path, Resume.never, 1, r"run\.resume=never"),
        (run_dir.path, Resume.auto, 2, r"run\.seed=1, now 2"),
        (tmp_path / "new", Resume.must, 1, r"run\.resume=must"),
        (tmp_path / "foreign", Resume.auto, 1, "not a run of S2L-PO"),
    ):
        with pytest.raises(UserError, match=message):
            check_run_dir(path, resume, config(run__seed=seed))
    assert tree(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_path_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        create_run_dir(tmp_path / "file", Resume.auto, config())
    with pytest.raises(UserError, match="cannot be used"):
        create_run_dir(tmp_path / "file" / "run", Resume.auto, config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        create_run_dir(tmp_path / "run", Resume.auto, config())


def test_versions_of_earlier_parts_of_a_run_are_kept(tmp_path: Path) -> None:
    run_dir = started(tmp_path)
    old = json.loads(run_dir.versions.read_text()) | {"python": "3.10.0"}
    write_json_atomic(run_dir.versions, old)
    for _ in range(2):  # a second resume with the same software adds nothing
        create_run_dir(tmp_path, Resume.auto, config())
        assert json.loads(run_dir.versions.read_text())["earlier"] == [old]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_git_state_of_a_tracked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    file = tmp_path / "code.py"
    file.write_text("1")
    assert _git_state(file) is None  # no repository
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    assert _git_state(file) is None  # not tracked, as a copy in site-packages of a foreign repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "two")
    state = _git_state(file)
    assert state is not None
    assert len(str(state["commit"])) == 40
    assert state["dirty"] is False
    file.write_text("2")
    assert _git_state(file) == {**state, "dirty": True}


def test_atomic_write_failing_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json_atomic(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "half\ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_free_space_names_need_and_free(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError, match=r"needs 1000000000\.00 GB and .* has [\d.]+ GB free"):
        check_free_space(Path(tmp_path, "not", "yet"), 10**18)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    create_run_dir(tmp_path / "run", Resume.auto, config())
    code = (
        "import sys\nfrom s2l_nemo.config.schema import Resume\nfrom s2l_nemo.errors import UserError\n"
        "from s2l_nemo.records.directory import create_run_dir\n"
        "try: create_run_dir(sys.argv[1], Resume.auto, '')\nexcept UserError as error: print(error)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert "is in use by another process" in process.stdout, process.stderr


def as_nobody(job: Callable[[], object]) -> str:
    """What a job says when it is refused, in a process of a user without rights; empty if it is not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            job()
        except UserError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as text:
        said = text.read()
    assert os.waitpid(child, 0)[1] == 0
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_f14_a_writable_folder_in_a_read_only_one_is_used_and_others_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):  # pytest's folders are 0700, one more of them under xdist
        if not folder.stat().st_mode & 0o005:
            folder.chmod(0o755)
    run = tmp_path / "run"
    assert as_nobody(lambda: check_run_dir(run, Resume.auto, config())) == (
        f"run.dir={run} cannot be used (Permission denied: {tmp_path}); choose another run.dir"
    )
    run.mkdir()
    run.chmod(0o777)
    assert as_nobody(lambda: check_run_dir(run, Resume.auto, config())) == ""
    assert as_nobody(lambda: create_run_dir(run, Resume.auto, config())) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_f31_a_folder_that_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"is not a run of S2L-PO and holds 'thesis.txt'"):
        create_run_dir(tmp_path / "run", Resume.auto, config())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["run", "thesis.txt"]
