"""Files, and members of uncompressed tars, as bytes that are read where and when they are needed."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from s2l_nemo.errors import UserError


@dataclass(frozen=True)
class Region:
    """`size` bytes of a file from `offset` on: a whole file, or a member of an uncompressed tar."""

    path: Path
    offset: int
    size: int

    def part(self, start: int, size: int) -> Region:
        assert 0 <= start <= start + size <= self.size
        return Region(self.path, self.offset + start, size)

    def read(self) -> bytes:
        data = bytearray(self.size)
        self.read_into(0, memoryview(data))
        return bytes(data)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fills `buffer` with the bytes from `start` on. Raises UserError where the file has become shorter."""
        status = self.path.stat()
        file = _opened(self.path, (status.st_ino, status.st_mtime_ns))
        done = 0
        while done < len(buffer):
            count = os.preadv(file.fileno(), [buffer[done:]], self.offset + start + done)
            if count == 0:
                raise UserError(f"{self.path} was cut short while it was read: copy it again")
            done += count


@lru_cache(maxsize=16)
def _opened(path: Path, _identity: tuple[int, int]) -> io.FileIO:
    """`_identity` tells a file from one that has since taken its place."""
    return path.open("rb", buffering=0)


def folder_regions(folder: Path, *, recursive: bool = True) -> dict[str, Region]:
    """All files under a folder by their relative POSIX names. Links are followed: hub caches are made of them."""
    files = sorted(path for path in (folder.rglob("*") if recursive else folder.iterdir()) if path.is_file())
    return {path.relative_to(folder).as_posix(): Region(path, 0, path.stat().st_size) for path in files}


def tar_regions(path: Path) -> dict[str, Region]:
    """Regular members of a tar by name. Nothing is unpacked, so no member can reach outside.

    Raises UserError where the file is no uncompressed tar or is cut short, or has a member that would grow (sparse).
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg()]
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter for sizes and places that are none
        raise UserError(
            f"{path} is not an uncompressed tar, as a .nemo file is ({error}): unpack it, give the folder"
        ) from None
    size = path.stat().st_size
    for member in members:
        if member.issparse():
            raise UserError(f"{path}: {member.name} is a sparse file, which no .nemo has: pack it anew")
        if member.size < 0:
            raise UserError(f"{path}: {member.name} would have {member.size} bytes: copy it again")
        if member.offset_data + member.size > size:
            raise UserError(f"{path} is cut short: {member.name} should end at byte {member.offset_data + member.size}")
    return {member.name.removeprefix("./"): Region(path, member.offset_data, member.size) for member in members}
