"""Messages come back bit for bit, and bytes that are none are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.engines.served.wire import (
    WireError,
    pack_completions,
    pack_requests,
    unpack,
    unpack_completions,
    unpack_requests,
)
from s2l_nemo.types import Completion, FinishReason, SampleRequest, SamplingParams, Source
from tests.arrays import ids, lps

PARAMS = SamplingParams(7, (2, 5), temperature=0.1 + 0.2, top_p=0.95, top_k=20, presence_penalty=1.5)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
IDS = st.integers(0, 2**63 - 1)
REQUESTS = st.lists(st.builds(SampleRequest, IDS, IDS, TOKENS, IDS), max_size=6)


@st.composite
def completions(draw: st.DrawFn) -> list[Completion]:
    made = []
    for _ in range(draw(st.integers(0, 4))):
        tokens = draw(TOKENS)
        logprobs = draw(st.tuples(*(st.floats(width=32) for _ in tokens)))
        reason: FinishReason = draw(st.sampled_from(get_args(FinishReason)))
        source = draw(st.sampled_from(list(Source)))
        made.append(Completion(draw(IDS), draw(IDS), source, ids(tokens), lps(logprobs), reason, draw(IDS)))
    return made


@given(REQUESTS)
def test_requests_come_back(requests: list[SampleRequest]) -> None:
    assert unpack_requests(*unpack(pack_requests(requests, PARAMS))) == (requests, PARAMS)


@given(completions())
def test_completions_come_back_bit_for_bit(sampled: list[Completion]) -> None:
    indices = range(len(sampled))[::-1]
    finished = unpack_completions(unpack(pack_completions(list(zip(indices, sampled, strict=True))))[1])
    assert [index for index, _ in finished] == list(indices)
    back = [completion for _, completion in finished]
    for arrays in ([one.token_ids for one in (*back, *sampled)], [one.logprobs for one in (*back, *sampled)]):
        bits = [(array.dtype, array.tobytes()) for array in arrays]
        assert bits[: len(back)] == bits[len(back) :]
    assert [replace(one, logprobs=lps([])) for one in back] == [replace(one, logprobs=lps([])) for one in sampled]


def test_a_token_takes_eight_bytes() -> None:
    def length(tokens: int) -> int:
        completion = Completion(0, 0, Source.LEARNER, ids([1] * tokens), lps([-1.0] * tokens), "stop", 0)
        return len(pack_completions([(0, completion)]))

    assert length(1999) - length(1000) == 8 * 999


def test_a_prompt_goes_once() -> None:
    prompt = tuple(range(1000))
    requests = [SampleRequest(0, sample, prompt, sample) for sample in range(16)]
    body = pack_requests(requests, PARAMS)
    assert len(body) < 5500
    back, _ = unpack_requests(*unpack(body))
    assert len({id(request.prompt_token_ids) for request in back}) == 1


def header(text: bytes) -> bytes:
    return len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x05\x00",
        b"\xff\xff\xff\xff{}",
        header(b"null"),
        header(b"{}"),
        header(b'{"arrays": 1}'),
        header(b"[" * 100_000),
        header(b'{"arrays": [["a", "|O8", 1]]}') + bytes(8),
        header(b'{"arrays": [["a", "<i4", -1]]}'),
        header(b'{"arrays": [["a", "<i4", 2]]}') + bytes(7),
        header(b'{"arrays": [["a", "<i4", 2]]}') + bytes(9),
        header(b'{"arrays": [["a", "<i4", 4611686018427387904]]}'),
    ],
)
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack(body)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_refused(body: bytes) -> None:
    try:
        head, _ = unpack(body)
    except WireError:
        return
    assert json.dumps(head)


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": numpy.array([3], "<i4")},  # of 2 tokens
        {"lengths": numpy.array([3, -1], "<i4")},
        {"prompt": numpy.array([1], "<i4")},  # of 1 prompt
        {"seed": numpy.array([], "<i8")},
        {"tokens": None},
        {"tokens": numpy.array([3, -4], "<i4")},
        {"tokens": numpy.array([3, 4], "<f4")},
        {"prompt": numpy.array([-1], "<i4")},
        {"params": {"max_new_tokens": 0, "stop_token_ids": []}},
        {"params": {"max_new_tokens": 2.5, "stop_token_ids": []}},
        {"params": {"max_new_tokens": 2, "stop_token_ids": ["a"]}},
        {"params": {"max_new_tokens": 2, "stop_token_ids": [], "temperature": float("nan")}},
        {"params": {"max_new_tokens": 2, "stop_token_ids": [], "temperature": 10**25}},
        {"params": {"max_new_tokens": 2, "stop_token_ids": [], "top_p": 0}},
        {"params": {"temperature": 1.0}},
        {"params": {"unknown": 1}},
        {"params": None},
    ],
    ids=str,
)
def test_other_messages_are_no_requests(change: dict[str, Any]) -> None:
    head, arrays = unpack(pack_requests([SampleRequest(1, 2, (3, 4), 5)], PARAMS))
    unpack_requests(head, arrays)
    for name, value in change.items():
        if name == "params":
            head[name] = value
        else:
            arrays[name] = value
    with pytest.raises(WireError):
        unpack_requests(head, {name: array for name, array in arrays.items() if array is not None})
