"""Outputs that keep what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from s2l_nemo.models.formats.rows import Part, blocks


def as_bytes(data: Part | bytes) -> bytes:
    return data if isinstance(data, bytes) else b"".join(block.tobytes() for block in blocks((data,), 1000))


class PlainOutput:
    """Files of a folder, nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def file(self, name: str) -> Iterator[Callable[[Part | bytes], object]]:
        with (self.folder / name).open("xb") as file:
            yield lambda data: file.write(as_bytes(data))


class MemoryOutput:
    """Files in memory, in the order of writing."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    @contextmanager
    def file(self, name: str) -> Iterator[Callable[[Part | bytes], None]]:
        assert name not in self.files
        self.files[name] = content = bytearray()

        yield lambda data: content.extend(as_bytes(data))

    def save(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder
