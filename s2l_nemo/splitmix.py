"""SplitMix64 on torch's integers: random bits that are a pure function of words, the same on every device.

Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. Unsigned numbers of 64 bits are
written as signed ones, whose products wrap in torch as those do.
"""

from __future__ import annotations

import torch

GAMMA = 0x9E3779B97F4A7C15 - 2**64  # one step of the generator's counter
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def shifted(words: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left: `>>` of a signed integer copies the sign bit."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def mixed(words: torch.Tensor) -> torch.Tensor:
    """The finaliser: every bit depends on every bit of the same word. int64, any shape."""
    words = (words ^ shifted(words, 30)) * _MIX_1
    words = (words ^ shifted(words, 27)) * _MIX_2
    return words ^ shifted(words, 31)
