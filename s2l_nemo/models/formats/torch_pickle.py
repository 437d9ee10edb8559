"""Writes the pickles of torch's checkpoints without torch: plain data, and calls of functions and classes by name.

Opcodes as `pickle` documents them (protocol 2, which torch's own restricted loader reads). Nothing is memoized, so
equal values give equal bytes.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Global:
    """A class or function, `module` and `name` separated by a space as in the opcode."""

    path: str


@dataclass(frozen=True)
class Call:
    """What a function returns for these arguments."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)  # so that it can be a key
class Instance:
    """An object made without its `__init__`, then given its state."""

    cls: Global
    state: Any


@dataclass(frozen=True)
class Persistent:
    """What the reader's `persistent_load` makes of this id."""

    id: Any


def pickled(value: Any) -> bytes:
    """Raises TypeError for what is none of these classes, None, a bool, int, float, str, tuple, list or dict."""
    out = io.BytesIO()
    out.write(pickle.PROTO + b"\x02")
    _emit(value, out)
    out.write(pickle.STOP)
    return out.getvalue()


def _emit(value: Any, out: io.BytesIO) -> None:
    match value:
        case None:
            out.write(pickle.NONE)
        case bool():
            out.write(pickle.NEWTRUE if value else pickle.NEWFALSE)
        case int():
            number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            out.write(pickle.LONG1 + bytes([len(number)]) + number)
        case float():
            out.write(pickle.BINFLOAT + struct.pack(">d", value))
        case str():
            text = value.encode()
            out.write(pickle.BINUNICODE + struct.pack("<I", len(text)) + text)
        case tuple():
            _emit_marked(value, out, pickle.TUPLE)
        case list():
            out.write(pickle.EMPTY_LIST)
            _emit_marked(value, out, pickle.APPENDS)
        case Mapping():
            out.write(pickle.EMPTY_DICT)
            _emit_marked([part for item in value.items() for part in item], out, pickle.SETITEMS)
        case _:
            _emit_object(value, out)


def _emit_marked(values: list[Any] | tuple[Any, ...], out: io.BytesIO, opcode: bytes) -> None:
    out.write(pickle.MARK)
    for value in values:
        _emit(value, out)
    out.write(opcode)


def _emit_object(value: Any, out: io.BytesIO) -> None:
    match value:
        case Global(path):
            module, _, name = path.partition(" ")
            out.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        case Call(function, arguments):
            _emit(function, out)
            _emit(arguments, out)
            out.write(pickle.REDUCE)
        case Instance(cls, state):
            _emit(cls, out)
            out.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            _emit(state, out)
            out.write(pickle.BUILD)
        case Persistent(identity):
            _emit(identity, out)
            out.write(pickle.BINPERSID)
        case _:
            raise TypeError(f"{type(value).__name__} is no plain data")


def saved(value: Any) -> bytes:
    """What `torch.save` makes of plain data: an uncompressed zip. The same value gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("data.pkl", pickled(value)), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()
