"""A commit of a repository on the Hugging Face hub, in the cache that all programs of Hugging Face share.

What a repository lists at a commit is kept beside its files, as `listings/COMMIT.json`. So a download that was cut off
is known as such without the hub, and a commit that is complete needs no network. huggingface_hub reads where the hub
and the cache are from HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE, and the token from HF_TOKEN.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.files import check_free_space, write_json_atomic, write_text_atomic
from s2l_nemo.hub.commits import commits, pin
from s2l_nemo.hub.faults import HubUnreachableError, explained, within
from s2l_nemo.hub.names import HubName, check_listed

ANSWER_S = 5.0  # for each question to the hub; a person waits for the line that says that it is silent
SAID_BYTES = 10_000_000  # a download of more is announced
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[\w-][\w.-]{0,199}")  # the hub's are hashes; one of them becomes the name of a file
_silent: dict[str, Exception] = {}  # hubs that did not answer: nobody waits for them twice


@dataclass(frozen=True)
class Hub:
    """Where the hub and the cache are."""

    endpoint: str
    cache: Path
    is_offline: bool

    @classmethod
    def here(cls) -> Hub:
        """As the environment has it."""
        from huggingface_hub import constants

        endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        return cls(endpoint, Path(constants.HF_HUB_CACHE), constants.HF_HUB_OFFLINE)


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository. Its files appear in `folder` when they are fetched."""

    asked: str  # begins messages: the key and its value
    hub: Hub
    name: HubName
    commit: str
    files: Mapping[str, int | None]  # bytes, None if the hub did not say

    @property
    def folder(self) -> Path:
        return _storage(self.hub, self.name) / "snapshots" / self.commit

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that the cache does not hold, or not whole."""
        return [name for name in names if not self._is_whole(name)]

    def size(self, names: Iterable[str]) -> int:
        """Bytes of these files, as far as the hub has said."""
        return sum(self.files[name] or 0 for name in names)

    def fetch(self, names: Iterable[str]) -> None:
        """Downloads what the cache lacks. Of several processes one does, and the others wait for it.

        Raises UserError if that fails. What has been downloaded by then is kept, and part of nothing.
        """
        names = list(names)
        lacking = self.lacking(names)
        if not lacking:
            return
        if self.hub.is_offline:
            raise HubUnreachableError(
                f"{self.asked} is no file or folder here, HF_HUB_OFFLINE is set, and the cache {self.hub.cache} lacks "
                f"{_listed(lacking)} of commit {self.commit[:12]}: fetch it where there is a network"
            )
        from huggingface_hub.errors import XetDownloadError, XetError
        from huggingface_hub.utils import WeakFileLock, logging  # type: ignore[attr-defined]  # it is exported

        logging.set_verbosity_error()  # messages on retries would bury the one line that says what is wrong
        lock = self.hub.cache / ".locks" / _storage(self.hub, self.name).name / "s2l_nemo.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                lacking = self.lacking(names)
                check_free_space(self.hub.cache, self.size(lacking))
                if self.size(lacking) > SAID_BYTES:
                    print(
                        f"fetching {len(lacking)} files ({self.size(lacking) / 1e6:,.0f} MB) of {self.name.repo}, "
                        f"commit {self.commit[:12]}, into {self.hub.cache}",
                        file=sys.stderr,
                    )
                for name in lacking:
                    self._download(name)
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, XetError, XetDownloadError) as error:
            held = f"the cache {self.hub.cache} lacks {_listed(self.lacking(names))} of commit {self.commit[:12]}"
            raise explained(error, self.asked, self.name, self.hub.endpoint, held) from error

    def _is_whole(self, name: str) -> bool:
        path, size = self.folder / name, self.files[name]
        return path.is_file() and size in (None, path.stat().st_size)

    def _download(self, name: str) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        repo, kind, endpoint = self.name.repo, self.name.kind.value, self.hub.endpoint
        url = hf_hub_url(repo, name, repo_type=kind, revision=self.commit, endpoint=endpoint)
        # huggingface_hub makes names of files from this answer, and tries for long to get it
        found = within(ANSWER_S, lambda: get_hf_file_metadata(url, timeout=ANSWER_S, endpoint=endpoint))
        if found.commit_hash != self.commit or not _ETAG.fullmatch(found.etag or ""):
            raise UserError(
                f"{self.asked}: the hub keeps {name} as {found.etag!r} of commit {found.commit_hash!r}, which would "
                "leave its place in the cache: see HF_ENDPOINT"
            )
        hf_hub_download(
            repo,
            name,
            repo_type=kind,
            revision=self.commit,
            endpoint=endpoint,
            cache_dir=self.hub.cache,
            etag_timeout=ANSWER_S,
            force_download=(self.folder / name).exists(),  # then with another size
        )


def open_snapshot(asked: str, name: HubName) -> Snapshot:
    """The commit that `name` stands for, and what it lists. Downloads no file.

    It is the commit that `commits` has, if there is one, else the one that the hub has now, or, with HF_HUB_OFFLINE,
    the one that the cache knows. A commit whose listing is kept needs no network. Every further process of this run
    takes the same one. `asked` is the key and its value, for messages.

    Raises UserError if the hub has none, and HubUnreachableError if it cannot be asked and the cache does not help.
    """
    hub = Hub.here()
    commit = commits().get(name.pin) or (name.revision if _COMMIT.fullmatch(name.revision) else None)
    if commit is None and hub.is_offline:
        commit = _known_commit(hub, name)
    files = None if commit is None else _kept(asked, hub, name, commit)
    if commit is None or files is None:
        if hub.is_offline:
            raise HubUnreachableError(
                f"{asked} is no file or folder here, HF_HUB_OFFLINE is set, and {_held(hub, name)}"
            )
        commit, files = _ask(asked, hub, name, commit or name.revision)
    pin({name.pin: commit})
    return Snapshot(asked, hub, name, commit, files)


def _ask(asked: str, hub: Hub, name: HubName, revision: str) -> tuple[str, dict[str, int | None]]:
    """The commit of a revision and its files. Keeps both in the cache."""
    if hub.endpoint in _silent:
        raise _explained(_silent[hub.endpoint], asked, hub, name)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint)
    try:
        info = within(
            ANSWER_S,
            lambda: api.repo_info(
                name.repo, repo_type=name.kind.value, revision=revision, files_metadata=True, timeout=ANSWER_S
            ),
        )
        commit = str(info.sha)
        files = {str(one.rfilename): one.size for one in info.siblings or []}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # the last ones: not the hub's JSON
        fault = _explained(error, asked, hub, name)
        if isinstance(fault, HubUnreachableError):
            _silent[hub.endpoint] = error
        raise fault from error
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
        raise UserError(f"{asked}: the hub says that its commit is {commit!r}, which is none: see HF_ENDPOINT")
    _checked(asked, files)
    storage = _storage(hub, name)
    try:
        for folder in ("listings", f"snapshots/{commit}"):
            (storage / folder).mkdir(parents=True, exist_ok=True)
        write_json_atomic(storage / "listings" / f"{commit}.json", files)
        if not _COMMIT.fullmatch(revision):
            (storage / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(storage / "refs" / revision, commit)
    except OSError as error:
        raise _explained(error, asked, hub, name) from error
    return commit, files


def _kept(asked: str, hub: Hub, name: HubName, commit: str) -> dict[str, int | None] | None:
    """What a commit lists, from the cache. None if that is not known.

    Another program may have filled the cache. Offline, what it has left is then all that there is.
    """
    storage = _storage(hub, name)
    listing, folder = storage / "listings" / f"{commit}.json", storage / "snapshots" / commit
    if listing.is_file():
        try:
            files: dict[str, int | None] = json.loads(listing.read_text(encoding="utf-8"))
            if not isinstance(files, dict):
                raise TypeError("no object")
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{asked}: {listing} is damaged: remove it") from None
    elif hub.is_offline and folder.is_dir() and not list(storage.glob("blobs/*.incomplete")):
        files = {path.relative_to(folder).as_posix(): None for path in folder.rglob("*") if path.is_file()}
    else:
        return None
    return _checked(asked, files)


def _checked(asked: str, files: dict[str, int | None]) -> dict[str, int | None]:
    """`files`, unless one would leave the cache or has a size that is none."""
    for file, size in files.items():
        check_listed(asked, file)
        if size is not None and (not isinstance(size, int) or size < 0):
            raise UserError(f"{asked}: the repository lists {file!r} with the size {size!r}: see HF_ENDPOINT")
    return files


def _known_commit(hub: Hub, name: HubName) -> str | None:
    """The commit that a branch or tag had when the hub was last asked, by this program or another."""
    ref = _storage(hub, name) / "refs" / name.revision
    commit = ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else ""
    return commit if _COMMIT.fullmatch(commit) else None


def _storage(hub: Hub, name: HubName) -> Path:
    """The folder of a repository in the cache, as huggingface_hub lays it out."""
    from huggingface_hub.file_download import repo_folder_name

    return hub.cache / str(repo_folder_name(repo_id=name.repo, repo_type=name.kind.value))


def _explained(error: Exception, asked: str, hub: Hub, name: HubName) -> UserError:
    return explained(error, asked, name, hub.endpoint, _held(hub, name))


def _held(hub: Hub, name: HubName) -> str:
    """What the cache holds of `name`, and what follows."""
    commit = _known_commit(hub, name)
    if commit is None or hub.is_offline:
        return (
            f"the cache {hub.cache} does not hold its revision {name.revision}: download it where there is a network, "
            "copy that cache here (HF_HOME), or give a folder"
        )
    return f"the cache {hub.cache} has commit {commit[:12]} of it: HF_HUB_OFFLINE=1 takes that"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more files"
