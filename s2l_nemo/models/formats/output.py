"""New folders and tars of files: streamed, hashed on the way, and there either completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from s2l_nemo.errors import UserError
from s2l_nemo.files import check_free_space, errors_about, sync
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import FileRows, MemoryRows, Part, Rows

MANIFEST = "SHA256SUMS"  # in a folder; beside a file it is NAME.sha256. Both are what `sha256sum -c` reads
_BLOCK = 4 * 2**20  # bytes of a buffer, hashed and written at once
_BUFFERS = 8  # buffers that are reused in turn: how far reading may be ahead of hashing and writing
_SECTOR = 4096  # what writes past the page cache must be multiples of, in length and place
_OURS = {MANIFEST, "config.json", "model_config.yaml", "metadata.json", "latest_checkpointed_iteration.txt"}

Write = Callable[["Part | bytes"], None]


class Output(Protocol):
    """A new folder or tar. Its files are written one after the other, each from its start to its end."""

    def file(self, name: str) -> Any:
        """Context manager that yields a function which appends bytes to the planned file `name`."""


class HashedFile:
    """A new file of known size: space is taken first, and two threads hash and write.

    Whatever is written is gathered in a few buffers that are used again and again, so memory does not depend on it.
    Large files bypass the page cache: filling fresh pages of it takes longer than the disk does, and what is written
    need not be flushed in the end.
    """

    def __init__(self, path: Path, size: int, progress: Callable[[int], None]) -> None:
        self.path, self.size, self.written = path, size, 0
        self._progress = progress
        self._digest = hashlib.sha256()
        self._descriptor = _create(path, direct=size >= _BLOCK)
        self._buffers = [memoryview(mmap.mmap(-1, _BLOCK)) for _ in range(_BUFFERS)]
        self._busy: list[list[Future[None]]] = [[] for _ in range(_BUFFERS)]  # hashing and writing of each buffer
        self._hasher, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._current, self._filled, self._offset = 0, 0, 0
        if size:
            _allocate(self._descriptor, size, path)

    def write(self, data: Part | bytes) -> None:
        part = MemoryRows(memoryview(data), 1) if isinstance(data, bytes) else data
        done, size = 0, len(part) * part.row_bytes
        while done < size:
            step = min(size - done, _BLOCK - self._filled)
            part.read_into(done, self._buffers[self._current][self._filled : self._filled + step])
            done, self._filled = done + step, self._filled + step
            if self._filled == _BLOCK:
                self._pass_on()
        self.written += size

    def _pass_on(self) -> None:
        """Gives the current buffer to both threads and takes the next one, once that is free."""
        buffer = self._buffers[self._current]
        whole = self._filled + -self._filled % _SECTOR  # the file is cut to its size in the end
        self._busy[self._current] = [
            self._hasher.submit(self._digest.update, buffer[: self._filled]),
            self._writer.submit(self._write_at, buffer[:whole], self._offset),
        ]
        self._offset += self._filled
        self._progress(self._filled)
        self._current, self._filled = (self._current + 1) % _BUFFERS, 0
        self._wait(self._current)

    def _write_at(self, data: memoryview, offset: int) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)
        except OSError as error:
            error.filename = str(self.path)  # a descriptor has no name
            raise

    def _wait(self, index: int) -> None:
        for future in self._busy[index]:
            future.result()

    def finish(self) -> str:
        """Waits until all bytes are on the disk and returns their SHA-256 as lowercase hex."""
        assert self.written == self.size, f"{self.path}: {self.written} bytes were written, {self.size} were planned"
        self._pass_on()
        for index in range(_BUFFERS):
            self._wait(index)
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)
        return self._digest.hexdigest()

    def close(self) -> None:
        self._hasher.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        os.close(self._descriptor)


class FolderOutput:
    """Files in a folder, and a manifest of their hashes."""

    def __init__(self, folder: Path, plan: Mapping[str, int], progress: Callable[[int], None]) -> None:
        self._folder, self._plan, self._progress = folder, plan, progress
        self._hashes: dict[str, str] = {}
        folder.mkdir()

    @contextmanager
    def file(self, name: str) -> Iterator[Write]:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(
            f"{path.name}.part"
        )  # it has its full size from the start: no loader may take it for whole
        with _closing(HashedFile(part, self._plan[name], self._progress)) as file:
            yield file.write
            self._hashes[name] = file.finish()
        part.rename(path)

    def finish(self) -> None:
        _check_complete(self._hashes, self._plan)
        lines = [manifest_line(digest, name) for name, digest in sorted(self._hashes.items())]
        (self._folder / MANIFEST).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        sync(self._folder / MANIFEST)
        for folder in [*(path for path in self._folder.rglob("*") if path.is_dir()), self._folder]:
            sync(folder)

    def close(self) -> None:
        pass


class TarOutput:
    """Members of an uncompressed tar, and the hash of the whole of it."""

    def __init__(self, path: Path, plan: Mapping[str, int], progress: Callable[[int], None]) -> None:
        self._plan, self._names = plan, set[str]()
        self._file = HashedFile(path, tar_size(plan), progress)
        self.digest = ""

    @contextmanager
    def file(self, name: str) -> Iterator[Write]:
        info = tarfile.TarInfo(f"./{name}")
        info.size = self._plan[name]
        info.mode = 0o644
        self._file.write(info.tobuf(tarfile.GNU_FORMAT))
        start = self._file.written
        yield self._file.write
        assert self._file.written - start == info.size, f"{name}: {self._file.written - start} bytes, not {info.size}"
        self._file.write(bytes(-info.size % tarfile.BLOCKSIZE))
        self._names.add(name)

    def finish(self) -> None:
        _check_complete(self._names, self._plan)
        self._file.write(bytes(self._file.size - self._file.written))
        self.digest = self._file.finish()

    def close(self) -> None:
        self._file.close()


def manifest_line(digest: str, name: str) -> str:
    """A line as `sha256sum` writes it: a backslash before it says that backslashes and line breaks are escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def content_size(content: bytes | Region) -> int:
    return content.size if isinstance(content, Region) else len(content)


def write_content(write: Write, content: bytes | Region) -> None:
    """Writes bytes, or a file that is read block by block."""
    write(FileRows(content, 1) if isinstance(content, Region) else content)


def write_rows(write: Write, rows: Rows) -> None:
    for part in rows:
        write(part)


def tar_size(plan: Mapping[str, int]) -> int:
    """Bytes of a tar of files of these sizes: headers, padding, and two empty blocks rounded up to a record."""
    blocks = sum(tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE for size in plan.values())
    return blocks + 2 * tarfile.BLOCKSIZE + -(blocks + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE


@contextmanager
def new_output(
    path: Path, plan: Mapping[str, int], *, tar: bool, force: bool, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Output]:
    """Yields an output for the files of `plan` (name to bytes); it takes the place of `path` once all are written.

    Everything is written beside `path` under a temporary name, flushed to the disk and renamed. Whatever ends the block
    early leaves `path` as it was. `progress` is told every number of bytes written.

    Raises UserError where `path` exists and `force` is false, where what it would replace is no checkpoint, where its
    folder is missing, and where the disk is too full.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))  # what a link points to is replaced, and not the link
    _clear_stale(path)
    check_output(path, tar=tar, force=force)
    check_free_space(path, sum(plan.values()))
    temporary = path.with_name(f".{path.name}.tmp-{_here()}-{os.getpid()}")
    output: FolderOutput | TarOutput | None = None
    with errors_about(path, temporary):
        try:
            output = (TarOutput if tar else FolderOutput)(temporary, plan, progress)
            yield output
            output.finish()
            output.close()
            check_output(path, tar=tar, force=force)  # another conversion may have been faster
            if isinstance(output, TarOutput):
                manifest = path.with_name(f"{path.name}.sha256")
                manifest.unlink(missing_ok=True)
                os.replace(temporary, path)
                manifest.write_text(manifest_line(output.digest, path.name), encoding="utf-8", errors="surrogateescape")
            else:
                _replace_folder(temporary, path)
            sync(path.parent)
        finally:
            if output is not None and temporary.exists():
                output.close()
            _remove(temporary)


def check_output(path: Path, *, tar: bool, force: bool) -> None:
    """Raises UserError where `new_output` would refuse `path`, before anything expensive begins."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder: create it, or choose another --output")
    if not os.path.lexists(path):
        return
    if not force:
        raise UserError(f"{path} exists: choose another --output, or add --force to replace it")
    if path.is_dir() == tar:
        raise UserError(f"{path} is a {'folder' if tar else 'file'} and would become the other: remove it first")
    names = set(os.listdir(path)) if path.is_dir() else _OURS
    if names and not names & _OURS:
        raise UserError(f"{path} holds no checkpoint, so --force does not replace it: choose another --output")


def _create(path: Path, *, direct: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    if direct:
        try:
            return os.open(path, flags | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without direct writes takes the others
                raise
            path.unlink(missing_ok=True)  # some have created it by then
    return os.open(path, flags, 0o644)


def _allocate(descriptor: int, size: int, path: Path) -> None:
    """Takes the space at once: a full disk shows now, and later writes are faster (2x on ext4)."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{path.parent} has no room for {size / 1e9:.2f} GB: free some space") from None
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system without preallocation just writes
            error.filename = str(path)  # a descriptor has no name
            raise


@contextmanager
def _closing(file: HashedFile) -> Iterator[HashedFile]:
    try:
        yield file
    finally:
        file.close()


def _check_complete(written: Any, plan: Mapping[str, int]) -> None:
    assert set(written) == set(plan), f"planned but not written: {sorted(set(plan) - set(written))}"


def _replace_folder(temporary: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old-{_here()}-{os.getpid()}")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    _remove(old)


def _clear_stale(path: Path) -> None:
    """Removes what a killed conversion to `path` left, and puts back an output it was about to replace.

    Other hosts and containers are left alone: whether their processes live cannot be seen from here.
    """
    for other in list(path.parent.iterdir()) if path.parent.is_dir() else []:
        match = re.fullmatch(re.escape(f".{path.name}") + rf"\.(tmp|old)-{_here()}-(\d+)", other.name)
        if match is None or _is_alive(int(match[2])):
            continue
        if match[1] == "old" and not path.exists():
            other.rename(path)
        else:
            _remove(other)


def _here() -> str:
    """Names the place where process ids mean something: this start of this machine, and the container in it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False  # this process has only begun: it was an earlier one of this number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and not ours
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
