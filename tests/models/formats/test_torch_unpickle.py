"""A pickle of a stranger gives inert data or one line, in bounded time and memory."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.dtypes import DTYPES, Dtype
from s2l_nemo.models.formats.torch_unpickle import IN_METADATA, unpickle

MEMORY = 4 * 2**30  # bytes of addresses beyond those in use: a bomb asks for more


@pytest.fixture(autouse=True, scope="module")
def limited_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read(data: bytes) -> object:
    return unpickle(data, IN_METADATA, "x")


HASHED = b"(" + b")" + b"2\x86" * 60  # a tuple of two of the same, sixty times: its hash takes 2^60 steps
BOMBS = {
    "key": b"\x80\x02}" + HASHED[1:] + b"Ns.",
    "keys": b"\x80\x02}(" + HASHED[1:] + b"Nu.",
    "set": b"\x80\x04\x8f(" + HASHED[1:] + b"\x90.",
    "bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "class of this process": b"cos\nsystem\n.",
    "state of a type": b"\x80\x02ctorch\nfloat32\n}U\x08itemsizeK\x63sb0c.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        read(BOMBS[name])


def test_a_far_place_in_the_memo_costs_nothing() -> None:
    assert read(b"\x80\x02Nr\xff\xff\xff\x7f.") is None


def test_no_pickle_changes_a_type_of_this_process() -> None:
    before = dict(DTYPES)
    read(b"\x80\x02ctorch\nfloat32\n}X\x08\x00\x00\x00itemsizeK\x63sb.")
    assert before == DTYPES
    assert DTYPES["float32"] == Dtype("float32", 4)


SEEDS = [
    pickle.dumps({"a": [1, 2.5, None, True, (1, 2)], "b": "c" * 300}, protocol=protocol) for protocol in (0, 2, 4, 5)
] + list(BOMBS.values())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=5))
def test_changed_pickles(seed: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(seed)
    for place, content in changes:
        data[place : place + len(content)] = content
    with suppress(UserError):
        read(bytes(data))
