"""What goes wrong with the hub, in one line: what is missing, where it was looked for, what to do.

No text of an exception is repeated: it could hold the token.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from s2l_nemo.errors import UserError
from s2l_nemo.hub.names import HubName

Result = TypeVar("Result")


class HubUnreachableError(UserError):
    """The hub does not answer, or may not be asked, and the cache does not hold what is needed."""


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """The result of `call`. Raises what it raises, or TimeoutError after `seconds`.

    A name server that is silent, or one address after the other that is, would keep a call longer than its own
    timeout. The thread that still waits then ends with the process.
    """
    answers: queue.SimpleQueue[tuple[Result, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def explained(error: Exception, asked: str, name: HubName, endpoint: str, held: str) -> UserError:
    """What a user reads for an exception of huggingface_hub.

    `asked` begins the line: the key and its value. `held` says what the cache holds of it, or lacks.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub, start = shown(endpoint), f"{asked} is no file or folder here"
    if isinstance(error, GatedRepoError):
        return UserError(f"{start}, and {hub} gives it only to those who accepted its terms: do so, and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{start}, and {hub} has no {name.kind.value} {name.repo}, or hides it: correct the path or the name, or "
            "set HF_TOKEN for a private one"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{start}, and {name.repo} on {hub} has no revision {name.revision}: correct it")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return UserError(f"{start}, and {name.repo} on {hub} lists a file that it does not have: give another revision")
    if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        status = 0 if error.response is None else error.response.status_code
        if status < 500:
            fix = "set HF_TOKEN to one that may read it" if status in (401, 403) else "wait, or see HF_ENDPOINT"
            return UserError(f"{start}, and {hub} refuses it (HTTP {status}): {fix}")
        return HubUnreachableError(f"{start}, {hub} is down (HTTP {status}), and {held}")
    if _is_of_network(error):
        return HubUnreachableError(f"{start}, {hub} cannot be reached ({_reason(error)}), and {held}")
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{asked} cannot be written to the cache ({error.strerror}: {error.filename}): see HF_HOME")
    return UserError(
        f"{start}, and {hub} does not answer as the Hugging Face hub does ({type(error).__name__}): see HF_ENDPOINT "
        "and the proxy"
    )


def shown(endpoint: str) -> str:
    """The address of the hub without the password that it may hold."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_of_network(error: Exception) -> bool:
    import requests
    from huggingface_hub.errors import LocalEntryNotFoundError, XetDownloadError

    kinds = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, TimeoutError)
    return isinstance(error, (*kinds, ConnectionError, LocalEntryNotFoundError, XetDownloadError))


def _reason(error: BaseException) -> str:
    """The system's own words, which are at the end of a chain of exceptions."""
    found, link = "no connection", error
    while True:
        if isinstance(link, OSError) and link.strerror:
            found = link.strerror
        elif isinstance(link, TimeoutError) and link.args:
            found = str(link.args[0])
        following = link.__cause__ or link.__context__
        if following is None:
            return found
        link = following
