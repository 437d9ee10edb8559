"""`icepop`: importance sampling inside a wide band, token by token."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.masked import Masked
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput


@dataclass(frozen=True)
class IcePop:
    """Ratio pi/pi_old, weight k = pi_old/pi_sampler. Tokens with k outside alpha..beta are rejected.

    IcePop (Ring-1T, arXiv 2510.18855; https://ringtech.notion.site/icepop): M(k) = k inside of the band, 0 outside,
    with alpha 0.5 and beta 5. It is `masked` under its own name and with its own band.
    """

    icepop_alpha: float
    icepop_beta: float

    def __call__(self, tokens: RuleInput) -> Importance:
        return Masked(importance_floor=self.icepop_alpha, importance_cap=self.icepop_beta)(tokens)
