"""Types of elements by name, so that converting a checkpoint needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dtype:
    """A type of torch: its name there and the bytes of an element."""

    name: str
    itemsize: int

    def __str__(self) -> str:
        return self.name


FLOAT32, BFLOAT16, FLOAT16 = Dtype("float32", 4), Dtype("bfloat16", 2), Dtype("float16", 2)
DTYPES = {  # every type that a checkpoint may hold besides weights, too
    dtype.name: dtype
    for dtype in (
        FLOAT32, BFLOAT16, FLOAT16, Dtype("float64", 8), Dtype("float8_e4m3fn", 1), Dtype("float8_e5m2", 1),
        Dtype("int64", 8), Dtype("int32", 4), Dtype("int16", 2), Dtype("int8", 1), Dtype("uint8", 1), Dtype("bool", 1),
    )
}  # fmt: skip
WEIGHTS = (FLOAT32, BFLOAT16, FLOAT16)
