"""Damages bytes and JSON values at random. The same random state gives the same damage."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutate = Callable[[Random, bytes, Sequence[bytes]], bytes]  # random state, one seed, all seeds

TOKENS = (
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"../",
    b"/etc/passwd",
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 400, b"\\ud800", b"\xed\xa0\x80", b"\x1b[2J", b"%s",
    b"${oc.env:HOME}", b"*a", b"&a", b"<<: ", b"!!python/object/apply:os.system", b"cos\nsystem\n", b"\x80\x04",
    b"\x1f\x8b",
    b"[" * 2000, b"{\"a\":" * 300, b" " * 3000, b"PAR1", b"PK\x03\x04", b"\x93NUMPY",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, -(2**63),
    10**400, "",
    "a", "0", "1", "null", "../x", "/etc/passwd", "\0", "\ud800", "a" * 5000, "\x1b[31m", "a\nb", [], {}, [[]],
    [None], [1, 2],
    [0, -1], {"a": 1}, {"": None}, [{"a": []}], [1e999], ["x", 2], "llama3", "yarn", "default", "F32", "bfloat16",
)  # fmt: skip


def damage(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """One to four changes: a bit flipped, bytes replaced, cut, doubled, or taken from another seed."""
    data = bytearray(seed)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        _CHANGES[random.randrange(len(_CHANGES))](random, data, seeds)
    return bytes(data)


def _flip(random: Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _byte(random: Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _number(random: Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    """A length or an offset that lies."""
    size = random.choice((1, 2, 4, 8))
    place = random.randrange(len(data) + 1)
    order = random.choice(("little", "big"))
    data[place : place + size] = (random.choice(NUMBERS) % 256**size).to_bytes(size, order)


def _cut(random: Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    if random.random() < 0.3:
        del data[random.randrange(len(data) + 1) :]
    else:
        start = random.randrange(len(data) + 1)
        del data[start : start + random.choice((1, 2, 4, 8, 30, 300))]


def _token(random: Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    place = random.randrange(len(data) + 1)
    data[place : place + random.choice((0, 0, 1, 4))] = random.choice(TOKENS)


def _double(random: Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    start = random.randrange(len(data) + 1)
    piece = data[start : start + random.choice((1, 4, 16, 100, 512))]
    place = random.randrange(len(data) + 1)
    data[place:place] = piece * random.choice((1, 1, 2, 8))


def _splice(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = random.choice(seeds)
    start, place = random.randrange(len(other) + 1), random.randrange(len(data) + 1)
    size = random.choice((4, 16, 64, len(other)))
    data[place : place + random.choice((0, size))] = other[start : start + size]


_CHANGES = (_flip, _byte, _number, _cut, _token, _double, _splice, _flip, _byte)


def mixed(*ways: Mutate) -> Mutate:
    """Each way equally often."""
    return lambda random, seed, seeds: random.choice(ways)(random, seed, seeds)


# JSON, and whatever holds it


def json_changed(random: Random, value: Any) -> Any:
    """A value with one to three of its parts replaced, taken out, renamed, doubled or exchanged."""
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _changed_at(random, value, list(_places(value, ())))
    return value


def json_damage(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Changes values of a JSON text; one time in four its bytes. Seeds that are none have their bytes changed."""
    if random.random() < 0.25:
        return damage(random, seed, seeds)
    try:
        value = json.loads(seed)
    except ValueError:
        return damage(random, seed, seeds)
    return json.dumps(json_changed(random, value)).encode()


def json_lines_damage(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Changes one line of several JSON texts; one time in four the bytes."""
    lines = seed.splitlines(keepends=True)
    if not lines or random.random() < 0.25:
        return damage(random, seed, seeds)
    place = random.randrange(len(lines))
    lines[place] = json_damage(random, lines[place], seeds) + b"\n"
    return b"".join(lines)


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if isinstance(value, dict):
        for key, inner in list(value.items())[:200]:
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:50]):
            yield from _places(inner, (*path, index))


def _changed_at(random: Random, value: Any, places: Sequence[tuple[Any, ...]]) -> Any:
    path = random.choice(places)
    if not path:
        return value if random.random() < 0.9 else random.choice(VALUES)
    copy = json.loads(json.dumps(value)) if isinstance(value, dict | list) else value
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    match random.randrange(5):
        case 0 if isinstance(holder, dict):
            del holder[path[-1]]
        case 1 if isinstance(holder, dict):
            holder[random.choice((str(path[-1]) + "x", "", "__metadata__", str(path[-1]).upper()))] = holder.pop(
                path[-1]
            )
        case 2 if isinstance(holder, list):
            holder.insert(random.randrange(len(holder) + 1), holder[path[-1]])
        case 3:
            holder[path[-1]] = _at(value, random.choice(places))
        case _:
            holder[path[-1]] = random.choice(VALUES)
    return copy


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


# Containers whose own checksums and lengths would otherwise stop every change


def safetensors_damage(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Changes the JSON of a header and keeps its length true."""
    if len(seed) < 8:
        return damage(random, seed, seeds)
    length = int.from_bytes(seed[:8], "little")
    header = json_damage(random, seed[8 : 8 + length], seeds)
    return struct.pack("<Q", len(header)) + header + seed[8 + length :]


def tar_damage(random: Random, seed: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Changes one header of a tar and makes its checksum right again."""
    data = bytearray(seed)
    heads = [place for place in range(0, len(data) - 511, 512) if data[place + 257 : place + 262] == b"ustar"]
    if not heads:
        return seed
    head = random.choice(heads)
    block = data[head : head + 512]
    start, size, values = random.choice(_TAR_FIELDS)
    value = random.choice(values) if random.random() < 0.7 else bytes(random.choices(range(256), k=size))
    block[start : start + size] = value[:size].ljust(size, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data[head : head + 512] = block
    return bytes(data)


_TAR_FIELDS: tuple[tuple[int, int, tuple[bytes, ...]], ...] = (
    (0, 100, (b"../../outside", b"/tmp/outside", b"huggingface/../../x", b"huggingface/config.json", b"", b"./",
    b"huggingface/",
              b"model_config.yaml", b"model_weights/metadata.json", b"model_weights/.metadata", b"huggingface/a\nb")),
    (124, 12, (b"00000000000", b"77777777777", b"00000001000", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"x")),
    (156, 1, (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"L", b"K", b"x", b"g", b"\0", b"D", b"M")),
    (157, 100, (b"/etc/passwd", b"../../x", b"model_config.yaml", b"")),
    (345, 155, (b"../..", b"/tmp", b"huggingface", b"\0\0\0\0\0\0\0\0\0\0\0\0\x80\xff", b"")),
    (386, 96, (b"00000000000\00000000001000", b"00000000000\077777777777", b"\x80" + b"\x7f" * 11)),
    (483, 12, (b"77777777777", b"00000100000", b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")),
)  # fmt: skip


def pickle_programs(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """A pickle of a few random operations, or one with some put into it."""
    pieces = b"".join(random.choice(_OPERATIONS) for _ in range(random.randrange(1, 25)))
    if random.random() < 0.5:
        return b"\x80\x02" + pieces + b"."
    place = random.randrange(len(seed) + 1)
    return damage(random, seed[:place] + pieces + seed[place:], seeds)


_OPERATIONS = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ctorch\nSize\n", b"ctorch\nFloatStorage\n",
    b"(", b"t", b"R",
    b"]", b"}", b")", b"\x81", b"b", b"0", b"1", b"2", b"ccollections\nOrderedDict\n", b"h\x00", b"q\x00", b"\x94",
    b"e", b"a", b"u",
    b"s", b"d", b"l", b"N", b"\x88", b"K\x05", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255,
    b"X\x01\x00\x00\x00a",
    b"\x8c\x01a", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x93", b"Q", b"P0\n", b"\x85", b"\x86", b"\x87",
    b"i", b"o",
    b"\x8f", b"\x90", b"\x91", b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"G" + b"\x7f" * 8,
    b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"\x82\x01", b"\x92", b"I1\n", b"L99999999999999999999L\n", b"\x80\xff",
)  # fmt: skip


def gzip_damage(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Changes what a gzip file holds."""
    try:
        return gzip.compress(json_lines_damage(random, gzip.decompress(seed), seeds), 1)
    except (OSError, EOFError, zlib.error):
        return damage(random, seed, seeds)


def message_damage(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Changes the JSON header of a message of engine servers and keeps its length true."""
    length = int.from_bytes(seed[:4], "little")
    header = json_damage(random, seed[4 : 4 + length], seeds)
    return struct.pack("<I", len(header)) + header + seed[4 + length :]
