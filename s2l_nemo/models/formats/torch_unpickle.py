"""Reads the pickles of torch's checkpoints as inert data: nothing that they name is imported or called.

A pickle is a program. This interpreter knows a fixed list of names and builds stand-ins for them, takes only plain keys
for dictionaries (nested tuples take forever to hash), and reserves no memory that the pickle merely speaks of.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.dtypes import DTYPES


class StandIn:
    """Holds what a pickle calls a class or function with. `__setstate__` keeps a pickle from setting attributes."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> StandIn:
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class TypeName(StandIn):
    """A type of torch by its name, or the type of a storage's elements. A new one for every mention."""


def unpickle(data: bytes, allowed: Mapping[tuple[str, str], Any], name: str) -> Any:
    """What a pickle builds. `allowed` maps module and name to a class or function; `name` is only shown.

    Raises UserError where the pickle names anything else, or is damaged.
    """
    try:
        return _Unpickler(data, allowed, name).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"{name} is corrupt ({reason}): copy or save it again") from None


class _Unpickler(pickle._Unpickler):
    """The interpreter in Python: its memory of objects is a dictionary, and each of its operations can be replaced."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes, allowed: Mapping[tuple[str, str], Any], name: str) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed, self._name = allowed, name

    def find_class(self, module: str, name: str) -> Any:
        found = self._allowed.get((module, name))
        if found is None:
            raise UserError(
                f"{self._name} calls {module!s:.80}.{name!s:.80}, refused: the reader does not know it, and a "
                "pickle may run any code"
            )
        return TypeName(found) if isinstance(found, str) else found

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])  # type: ignore[attr-defined]
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])  # type: ignore[attr-defined]
        super().load_setitems()  # type: ignore[misc]

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])  # type: ignore[attr-defined]
        super().load_dict()  # type: ignore[misc]

    def refuse(self) -> None:
        raise ValueError("it has an operation that no checkpoint needs")


_REPLACED: dict[bytes, Any] = {
    pickle.SETITEM: _Unpickler.load_setitem,
    pickle.SETITEMS: _Unpickler.load_setitems,
    pickle.DICT: _Unpickler.load_dict,
    **dict.fromkeys(
        (
            pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER,
            pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ,
        ),
        _Unpickler.refuse,
    ),
}  # fmt: skip
_Unpickler.dispatch.update({opcode[0]: method for opcode, method in _REPLACED.items()})


def _check_keys(keys: Sequence[Any]) -> None:
    for key in keys:
        if not isinstance(key, str | int | StandIn | None.__class__):
            raise ValueError(f"a {type(key).__name__} is a key")


def ordered(*arguments: Any) -> dict[Any, Any]:
    """In place of `collections.OrderedDict`: empty, or of a list of pairs."""
    pairs = [tuple(pair) for pair in arguments[0]] if arguments else []
    _check_keys([key for key, _ in pairs])
    return dict(pairs)


_DCP = "torch.distributed.checkpoint"
_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"
_MEGATRON = "megatron.core.dist_checkpointing.strategies.torch"
_CLASSES: Mapping[str, Sequence[str]] = {
    f"{_DCP}.metadata": (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    ),
    f"{_DCP}.filesystem": ("_StorageInfo", "_StoragePrefix"),
    f"{_DCP}.planner": ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData"),
    _SHARDED: ("TensorProperties", "MEM_FORMAT_ENCODING"),  # torch before 2.3
    _MEGATRON: ("MCoreSavePlan",),
    "torch.serialization": ("_get_layout",),
    "builtins": ("getattr",),  # how early Python 3.11 pickles members of an Enum
    "pathlib": ("PosixPath", "PurePosixPath", "Path", "WindowsPath", "PureWindowsPath"),
    "pathlib._local": ("PosixPath", "PurePosixPath", "Path", "WindowsPath", "PureWindowsPath"),
    "uuid": ("UUID", "SafeUUID"),
}  # fmt: skip
STAND_INS: dict[str, Any] = {name: type(name, (StandIn,), {}) for names in _CLASSES.values() for name in names}
IN_METADATA: Mapping[tuple[str, str], Any] = {
    **{(module, name): STAND_INS[name] for module, names in _CLASSES.items() for name in names},
    (_MEGATRON, "MCoreMetadata"): STAND_INS["Metadata"],  # megatron-core 0.15: torch's with one more field
    **{("torch", name): name for name in DTYPES},
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): ordered,
}
_STORAGES = {
    "Float": "float32", "BFloat16": "bfloat16", "Half": "float16", "Double": "float64",
    "Long": "int64", "Int": "int32", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
IN_ITEM: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): StandIn,
    **{("torch", f"{name}Storage"): dtype for name, dtype in _STORAGES.items()},
    ("collections", "OrderedDict"): ordered,
}
