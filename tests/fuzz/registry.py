"""All readers of outside files, by name; CONTRIBUTING.md says how to add one."""

from __future__ import annotations

from tests.fuzz.reader import Reader
from tests.fuzz.readers import data, models, reports, runs, served, studies

READERS: dict[str, Reader] = {
    reader.name: reader for room in (models, data, runs, served, studies, reports) for reader in room.READERS
}
