"""The number types that models are held and computed in. A leaf without torch, so that a configuration stays light."""

from __future__ import annotations

from enum import Enum

from typing_extensions import assert_never


class Precision(str, Enum):
    """The number type of a model's weights."""

    fp32 = "fp32"
    bf16 = "bf16"

    @property
    def element_bytes(self) -> int:
        """Bytes of one number."""
        match self:
            case Precision.fp32:
                return 4
            case Precision.bf16:
                return 2
            case _:
                assert_never(self)
