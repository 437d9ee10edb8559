"""Files, and members of uncompressed tars, as mapped bytes."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from s2l_nemo.errors import UserError


@dataclass(frozen=True)
class Region:
    """`size` bytes of a file from `offset` on: a whole file, or a member of an uncompressed tar."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def bytes(self) -> torch.Tensor:
        """All bytes [size], mapped: nothing is read before it is used, and it counts as cache, not as memory."""
        if self.size == 0:
            return torch.empty(0, dtype=torch.uint8)
        status = self.path.stat()
        whole = _mapped(self.path, status.st_size, (status.st_ino, status.st_mtime_ns))
        return whole[self.offset : self.offset + self.size]


@lru_cache(maxsize=64)
def _mapped(path: Path, size: int, identity: tuple[int, int]) -> torch.Tensor:
    """`identity` tells a file from one that has since taken its place."""
    storage = torch.UntypedStorage.from_file(str(path), False, size)  # private: a write would never reach the file
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]


def folder_regions(folder: Path, *, recursive: bool = True) -> dict[str, Region]:
    """All files under a folder by their relative POSIX names. Links are followed: hub caches are made of them."""
    files = sorted(path for path in (folder.rglob("*") if recursive else folder.iterdir()) if path.is_file())
    return {path.relative_to(folder).as_posix(): Region(path, 0, path.stat().st_size) for path in files}


def tar_regions(path: Path) -> dict[str, Region]:
    """Regular members of a tar by name. Nothing is unpacked, so no member can reach outside.

    Raises UserError where the file is no uncompressed tar or is cut short.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg()]
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no .nemo file: not an uncompressed tar ({error}); unpack it, give the folder"
        ) from None
    size = path.stat().st_size
    for member in members:
        if member.offset_data + member.size > size:
            raise UserError(f"{path} is cut short: {member.name} should end at byte {member.offset_data + member.size}")
    return {member.name.removeprefix("./"): Region(path, member.offset_data, member.size) for member in members}
