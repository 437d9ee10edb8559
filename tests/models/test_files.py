"""Where the small files of a model are, and how their JSON is read."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.models.files import hf_files_folder, read_json_object

ROOT = Path(__file__).resolve().parents[2]


def test_only_plain_files_of_the_folder_are_unpacked(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    file = tmp_path / "model.nemo"
    with tarfile.open(file, "w:") as archive:
        archive.add(config, "./huggingface/config.json")
        archive.add(config, "./huggingface/../../escaped.json")
        archive.add(config, "../huggingface/escaped.json")
        archive.add(config, "./huggingface/deeper/escaped.json")
        link = tarfile.TarInfo("./huggingface/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    folder = hf_files_folder("model.path", str(file))
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert not list(folder.parent.glob("escaped.json"))


def test_a_member_that_grows_when_it_is_unpacked_is_refused(tmp_path: Path) -> None:
    """A sparse file of a few bytes may say that it has terabytes."""
    info = tarfile.TarInfo("./huggingface/config.json")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"00000000000\0", b"00000000000\0"  # one piece: its place and its size
    header[483:495] = b"77777777777\0"  # the size that it stands for
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "model.nemo").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(UserError, match="sparse file"):
        hf_files_folder("model.path", str(tmp_path / "model.nemo"))


def test_the_unpacked_files_go_with_the_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.nemo"
    with tarfile.open(file, "w:") as archive:
        archive.add(tmp_path / "config.json", "./huggingface/config.json")
    code = f"from s2l_nemo.models.files import hf_files_folder as f; print(f('model.path', {str(file)!r}))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "s2l_nemo_" in shown
    assert not Path(shown.strip()).exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[" * 10**5, "is not JSON"), (b"[1]", "is not a JSON object")],
)
def test_what_is_no_json_object(content: bytes, fault: str) -> None:
    with pytest.raises(UserError, match=f"^shown.json {fault}: fetch the model again$"):
        read_json_object(content, Path("shown.json"))
