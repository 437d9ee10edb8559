"""Which folder an evaluation continues in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s2l_nemo.evaluation.folder import EvaluationFolder, create_folder, find_folder, hash_files, lock_folder

ROOT = Path(__file__).parents[2]
WANTED = {"model": "m", "k": 4, "evaluate": {"temperature": 0.7, "limit": None}}


def test_the_newest_folder_of_the_same_name_and_wishes(tmp_path: Path) -> None:
    assert find_folder(tmp_path, "a", WANTED) is None
    first = create_folder(tmp_path, "a", WANTED, {"torch": "1"})
    second = create_folder(tmp_path, "a", WANTED, {"torch": "2"})
    create_folder(tmp_path, "a", WANTED | {"k": 5}, {})
    create_folder(tmp_path, "a_b", WANTED, {})
    (tmp_path / "output" / "a_99999999-999999").mkdir()  # killed before its config.txt was there
    assert first.folder_name < second.folder_name
    assert re.fullmatch(r"a_\d{8}-\d{6}", first.folder_name)
    assert find_folder(tmp_path, "a", WANTED) == second
    assert find_folder(tmp_path, "a", WANTED | {"k": 6}) is None
    assert yaml.safe_load(second.config.read_text()) == WANTED | {"versions": {"torch": "2"}}


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    folder = create_folder(tmp_path, "a", WANTED, {})
    folder.result.mkdir(parents=True)
    for place in (folder.output, folder.result):
        (place / ".tmp-aime24.json.123").write_text("half")
    (folder.result / "aime24.json").write_text("whole")
    lock_folder(folder)
    assert [path.name for path in folder.output.iterdir()] == ["config.txt"]
    assert [path.name for path in folder.result.iterdir()] == ["aime24.json"]


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = create_folder(tmp_path, "a", WANTED, {})
    program = (
        "import sys\nfrom pathlib import Path\nfrom s2l_nemo.evaluation.folder import EvaluationFolder, lock_folder\n"
        "from s2l_nemo.errors import UserError\n"
        "try:\n    lock_folder(EvaluationFolder(Path(sys.argv[1]), sys.argv[2]))\n"
        "except UserError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), folder.folder_name]

    def second() -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert second() == ""
    lock_folder(EvaluationFolder(tmp_path, folder.folder_name))
    assert "is being written by another process" in second()


@pytest.mark.parametrize("change", ["bytes", "name", "new"])
def test_hash_of_a_model_folder(tmp_path: Path, change: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.safetensors").write_bytes(b"12")
    (tmp_path / "inner" / "b").write_bytes(b"3")
    before = hash_files(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_bytes(b"hidden")
    assert hash_files(tmp_path) == before
    if change == "bytes":
        (tmp_path / "a.safetensors").write_bytes(b"13")
    elif change == "name":
        (tmp_path / "a.safetensors").rename(tmp_path / "c.safetensors")
    else:
        (tmp_path / "new").write_bytes(b"")
    assert hash_files(tmp_path) != before


def test_hash_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "m.nemo"
    file.write_bytes(b"1")
    before = hash_files(file)
    file.write_bytes(b"2")
    assert hash_files(file) != before
