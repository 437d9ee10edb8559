"""The messages between a trainer and an engine server.

A message is four bytes of header length, a JSON header, then raw little-endian arrays in the order that the header's
`arrays` lists as [name, type, count]. Nothing is ever unpickled. Integers and log-probs come back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy

from s2l_nemo.engines.protocol import EngineError
from s2l_nemo.errors import one_line
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source

Header = dict[str, Any]
Array = numpy.ndarray[Any, Any]
Arrays = Mapping[str, Array]

FRAME_BYTES = 8  # the length of each message, where several are the parts of one reply
_LENGTH_BYTES = 4
_DTYPES = ("<i4", "<i8", "<f4")
_FINISH_REASONS = ("stop", "length")


class WireError(EngineError):
    """Bytes that are not a message, or not the one that was expected. It may quote them."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def pack(header: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """One message. `arrays` are one-dimensional, of the types in `_DTYPES`."""
    arrays = arrays or {}
    listed = [[name, array.dtype.str, len(array)] for name, array in arrays.items()]
    assert all(dtype in _DTYPES for _, dtype, _ in listed)
    text = json.dumps({**header, "arrays": listed}).encode()
    return b"".join(
        [len(text).to_bytes(_LENGTH_BYTES, "little"), text, *(array.tobytes() for array in arrays.values())]
    )


def unpack(body: bytes) -> tuple[Header, dict[str, Array]]:
    """Header and arrays of a message. Raises WireError."""
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    if len(body) < max(end, _LENGTH_BYTES):
        raise WireError(f"a message of {len(body)} bytes ends within its header")
    try:
        header = json.loads(body[_LENGTH_BYTES:end])
        if not isinstance(header, dict):
            raise TypeError("no object")
        listed = [(str(name), str(dtype), count) for name, dtype, count in header.pop("arrays")]
        if not all(type(count) is int for _, _, count in listed):
            raise TypeError("a count is no whole number")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"the header is no JSON object with its arrays: {error}") from None
    arrays = {}
    for name, dtype, count in listed:
        if dtype not in _DTYPES or count < 0 or end + count * int(dtype[2:]) > len(body):
            raise WireError(f"the array {name:.80} of {count} x {dtype:.20} is not in the message")
        arrays[name] = numpy.frombuffer(body, dtype, count, end)
        end += arrays[name].nbytes
    if end != len(body):
        raise WireError(f"{len(body) - end} bytes follow the last array")
    return header, arrays


def pack_requests(requests: Sequence[SampleRequest], params: SamplingParams) -> bytes:
    """Each distinct prompt goes once."""
    index: dict[tuple[int, ...], int] = {}
    for request in requests:
        index.setdefault(request.prompt_token_ids, len(index))
    arrays = {
        "prompt_id": _integers([request.prompt_id for request in requests], "<i8"),
        "sample_id": _integers([request.sample_id for request in requests], "<i8"),
        "seed": _integers([request.seed for request in requests], "<i8"),
        "prompt": _integers([index[request.prompt_token_ids] for request in requests], "<i4"),
        "lengths": _integers([len(prompt) for prompt in index], "<i4"),
        "tokens": _integers([token for prompt in index for token in prompt], "<i4"),
    }
    return pack({"params": asdict(params)}, arrays)


def unpack_requests(header: Header, arrays: Arrays) -> tuple[list[SampleRequest], SamplingParams]:
    """The requests of `pack_requests`; those of one prompt share its tokens. Raises WireError."""
    try:
        params = _sampling_params(header["params"])
        _check_types(arrays, {})
        prompts = [tuple(prompt.tolist()) for prompt in _cut(arrays["tokens"], arrays["lengths"])]
        columns = [arrays[name].tolist() for name in ("prompt_id", "sample_id", "prompt", "seed")]
        requests = [
            SampleRequest(prompt_id, sample_id, prompts[prompt], seed)
            for prompt_id, sample_id, prompt, seed in zip(*columns, strict=True)
        ]
        if (arrays["tokens"] < 0).any() or (arrays["prompt"] < 0).any():
            raise ValueError("a token id or the number of a prompt is negative")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WireError(f"no sample requests: {error!r:.200}") from None
    return requests, params


def _check_types(arrays: Arrays, others: Mapping[str, str]) -> None:
    """Raises ValueError unless all arrays hold integers, but for `others`, which have these types."""
    for name, array in arrays.items():
        if array.dtype.str != others[name] if name in others else array.dtype.kind != "i":
            raise ValueError(f"{name:.80} is of type {array.dtype}")


def _sampling_params(values: Any) -> SamplingParams:
    """Raises TypeError or ValueError for what no engine can sample with."""
    given = SamplingParams(**values)
    params = SamplingParams(**{**asdict(given), "stop_token_ids": tuple(given.stop_token_ids)})
    whole = (params.max_new_tokens, params.top_k, *params.stop_token_ids)
    if not all(type(number) is int and 0 <= number < 2**31 for number in whole):
        raise ValueError("max_new_tokens, top_k and stop_token_ids must be whole numbers")
    numbers = (params.temperature, params.top_p, params.presence_penalty)
    if not all(type(number) in (int, float) and abs(number) < 2**31 for number in numbers):
        raise ValueError("temperature, top_p and presence_penalty must be numbers")
    if params.max_new_tokens < 1 or params.temperature < 0 or not 0 < params.top_p <= 1:
        raise ValueError("max_new_tokens, temperature or top_p is out of range")
    return params


def pack_completions(finished: Sequence[tuple[int, Completion]]) -> bytes:
    """Index, ids, tokens, log-probs, finish reason and weight version of each. What grading adds is left out."""
    completions = [completion for _, completion in finished]
    for completion in completions:
        assert len(completion.token_ids) == len(completion.logprobs)
    arrays = {
        "index": _integers([index for index, _ in finished], "<i4"),
        "prompt_id": _integers([c.prompt_id for c in completions], "<i8"),
        "sample_id": _integers([c.sample_id for c in completions], "<i8"),
        "source": _integers([c.source for c in completions], "<i4"),
        "finish_reason": _integers([_FINISH_REASONS.index(c.finish_reason) for c in completions], "<i4"),
        "weight_version": _integers([c.weight_version for c in completions], "<i8"),
        "lengths": _integers([len(c.token_ids) for c in completions], "<i4"),
        "tokens": _joined([c.token_ids for c in completions], "<i4"),
        "logprobs": _joined([c.logprobs for c in completions], "<f4"),
    }
    return pack({}, arrays)


def unpack_completions(arrays: Arrays) -> list[tuple[int, Completion]]:
    """What `pack_completions` was given. The arrays of the completions are parts of the message. Raises WireError."""
    try:
        return _unpack_completions(arrays)
    except (KeyError, ValueError, IndexError) as error:
        raise WireError(f"no completions: {error!r:.200}") from None


def _unpack_completions(arrays: Arrays) -> list[tuple[int, Completion]]:
    _check_types(arrays, {"tokens": "<i4", "logprobs": "<f4"})
    names = ("prompt_id", "sample_id", "source", "finish_reason", "weight_version")
    tokens, logprobs = (_cut(arrays[name], arrays["lengths"]) for name in ("tokens", "logprobs"))
    completions = [
        Completion(
            prompt_id=prompt_id,
            sample_id=sample_id,
            source=Source(source),
            token_ids=token_ids,
            logprobs=its_logprobs,
            finish_reason="stop" if _FINISH_REASONS[reason] == "stop" else "length",
            weight_version=version,
        )
        for prompt_id, sample_id, source, reason, version, token_ids, its_logprobs in zip(
            *(arrays[name].tolist() for name in names), tokens, logprobs, strict=True
        )
    ]
    return list(zip(arrays["index"].tolist(), completions, strict=True))


def _integers(values: Sequence[int], dtype: str) -> Array:
    return numpy.array(values, dtype)


def _joined(pieces: Sequence[Array], dtype: str) -> Array:
    return numpy.concatenate([numpy.empty(0, dtype), *pieces])


def _cut(values: Array, lengths: Array) -> list[Array]:
    """Consecutive pieces of the given lengths. Raises ValueError unless they make up all the values."""
    if (lengths < 0).any() or lengths.sum(dtype=numpy.int64) != len(values):
        raise ValueError(f"lengths of {len(lengths)} pieces do not make up {len(values)} values")
    ends = lengths.cumsum(dtype=numpy.int64).tolist()
    starts = [0, *ends[:-1]]
    return [values[start:end] for start, end in zip(starts, ends, strict=False)]
