"""New folders and tars: what they hold, what their manifests say, and that they appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.manifest import check_manifest, find_manifest, read_manifest
from s2l_nemo.models.formats.output import _here, new_output, tar_size
from s2l_nemo.models.formats.rows import MemoryRows

CONTENTS = {"a.json": b"{}", "weights/data": bytes(range(256)) * 40_000, "weights/empty": b"", "z": b"z" * 513}
PLAN = {name: len(content) for name, content in CONTENTS.items()}


def fill(path: Path, *, tar: bool, force: bool = False) -> list[int]:
    told: list[int] = []
    with new_output(path, PLAN, tar=tar, force=force, progress=told.append) as output:
        for name, content in CONTENTS.items():
            with output.file(name) as write:
                write(content[:100])
                write(MemoryRows(memoryview(content)[100:], 1))
    return told


def fill_half(path: Path, *, tar: bool) -> None:
    with new_output(path, PLAN, tar=tar, force=True) as output:
        with output.file("a.json") as write:
            write(b"{}")
        with output.file("weights/data") as write:
            write(b"half")
            raise RuntimeError("disk on fire")


def fill_all_but_one(path: Path, *, tar: bool) -> None:
    with new_output(path, PLAN, tar=tar, force=False) as output:
        for name, content in list(CONTENTS.items())[:-1]:
            with output.file(name) as write:
                write(content)


def test_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sum(fill(out, tar=False)) == sum(PLAN.values())
    assert {name: (out / name).read_bytes() for name in CONTENTS} == CONTENTS
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    assert read_manifest(out / "SHA256SUMS") == {out / name: digest for name, digest in hashes.items()}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    assert os.listdir(tmp_path) == ["out"]


def test_a_tar(tmp_path: Path) -> None:
    out = tmp_path / "out.nemo"
    fill(out, tar=True)
    assert out.stat().st_size == tar_size(PLAN)
    with tarfile.open(out) as archive:
        files = {member.name.removeprefix("./"): archive.extractfile(member) for member in archive.getmembers()}
        assert {name: file.read() for name, file in files.items() if file} == CONTENTS
    subprocess.run(["sha256sum", "--check", "--quiet", "out.nemo.sha256"], cwd=tmp_path, check=True)
    assert sorted(os.listdir(tmp_path)) == ["out.nemo", "out.nemo.sha256"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3000), max_size=5))
def test_size_of_a_tar(plan: dict[str, int]) -> None:
    """As Python's tarfile writes it."""
    import io

    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, size in plan.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    assert tar_size(plan) == len(target.getvalue())


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    fill(tmp_path / "one.nemo", tar=True)
    fill(tmp_path / "two.nemo", tar=True)
    assert (tmp_path / "one.nemo").read_bytes() == (tmp_path / "two.nemo").read_bytes()


@pytest.mark.parametrize("tar", [False, True])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, tar: bool, existing: bool) -> None:
    out = tmp_path / "out"
    if existing:
        fill(out, tar=tar)
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    with pytest.raises(RuntimeError, match="disk on fire"):
        fill_half(out, tar=tar)
    assert sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("tar", [False, True])
def test_an_error_names_what_was_asked_for(tmp_path: Path, tar: bool) -> None:
    """And not the temporary file beside it."""
    file = tmp_path / ("o" * 250)  # with more in its name it is too long
    with pytest.raises(OSError, match="File name too long") as caught:
        fill(file, tar=tar)
    assert (caught.value.filename, caught.value.filename2) == (str(file), None)
    folder = tmp_path / "out"
    with (
        pytest.raises(OSError, match="File name too long") as caught,
        new_output(folder, {"n" * 300: 1}, tar=False, force=False) as output,
        output.file("n" * 300),
    ):
        pass
    assert caught.value.filename.startswith(str(folder / ("n" * 300)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tar", [False, True])
def test_less_than_planned_is_a_bug(tmp_path: Path, tar: bool) -> None:
    with pytest.raises(AssertionError, match="'z'"):
        fill_all_but_one(tmp_path / "out", tar=tar)
    assert not os.listdir(tmp_path)


def test_replacing(tmp_path: Path) -> None:
    for tar in (False, True):
        out = tmp_path / f"out{tar}"
        fill(out, tar=tar)
        with pytest.raises(UserError, match="--force"):
            fill(out, tar=tar)
        fill(out, tar=tar, force=True)
        with pytest.raises(UserError, match="would become the other"):
            fill(out, tar=not tar, force=True)
    assert sorted(os.listdir(tmp_path)) == ["outFalse", "outTrue", "outTrue.sha256"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    finished = subprocess.Popen(["true"])
    finished.wait()
    (tmp_path / f".out.tmp-{_here()}-{finished.pid}").mkdir()
    (tmp_path / f".out.tmp-{_here()}-{os.getpid()}").mkdir()  # of an earlier process that had this number
    (tmp_path / f".out.old-{_here()}-{finished.pid}").mkdir()  # killed between two renames: the output was not there
    (tmp_path / f".out.old-{_here()}-{finished.pid}" / "SHA256SUMS").touch()
    left = [f".out.tmp-{_here()}-{os.getppid()}", ".out.tmp-mine"]  # of a process that lives, and of nobody
    for name in left:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="--force"):
        fill(tmp_path / "out", tar=False)  # the old output is back
    assert sorted(os.listdir(tmp_path)) == sorted(["out", *left])


def test_manifests_find_what_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, tar=False)
    manifest = find_manifest(out)
    assert manifest is not None
    assert check_manifest(manifest, lambda count: None) == []
    (out / "z").write_bytes(b"y" + b"z" * 512)
    (out / "a.json").unlink()
    assert check_manifest(manifest, lambda count: None) == [
        (out / "a.json", "is missing"),
        (out / "z", "differs from SHA256SUMS"),
    ]
    manifest.write_text(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(UserError, match="SHA256SUMS"):
        check_manifest(manifest, lambda count: None)
    assert find_manifest(tmp_path) is None


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [4 * 2**20, 4 * 2**20 + 1, 40 * 2**20 + 5000])
def test_large_files_with_and_without_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool, size: int
) -> None:
    content = os.urandom(2**20) * 41
    flags: list[int] = []
    plain_open = os.open

    def open_file(path: str, how: int, mode: int = 0o777) -> int:
        flags.append(how & os.O_DIRECT)
        if how & os.O_DIRECT and not direct:
            raise OSError(errno.EINVAL, "no direct writes here")
        return plain_open(path, how, mode)

    monkeypatch.setattr(os, "open", open_file)
    told: list[int] = []
    with (
        new_output(tmp_path / "out", {"data": size}, tar=False, force=False, progress=told.append) as output,
        output.file("data") as write,
    ):
        write(content[:777])  # so that no later piece begins where a buffer does
        write(MemoryRows(memoryview(content)[777:size], 1))
    assert flags[0] == os.O_DIRECT
    assert (tmp_path / "out" / "data").read_bytes() == content[:size]
    assert read_manifest(tmp_path / "out" / "SHA256SUMS")[tmp_path / "out" / "data"] == (
        hashlib.sha256(content[:size]).hexdigest()
    )
    assert sum(told) == size
