"""What the paper prints: the figures of its tables, each with its place. They are copied nowhere else.

Paper: "Smaller Models are Natural Explorers for Policy-Level Diversity in GRPO", arXiv 2605.30789v2. Differences are
computed from these figures. What the paper prints as a difference is kept beside them, to find its slips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Setting:
    """What a row of a table was measured on: the learner, its explorer, and the names of its experiments here."""

    label: str
    learner: str
    explorer: str | None
    experiments: tuple[str, ...]


class Figures(NamedTuple):
    """Two values of a table in percent, and the difference that the paper prints, if it prints one."""

    baseline: float
    treated: float
    printed: float | None = None

    @property
    def difference(self) -> float:
        """Computed, in points, with the one digit that the values have."""
        return round(self.treated - self.baseline, 1)


@dataclass(frozen=True)
class Comparison:
    """Two rows of a table, by benchmark."""

    label: str
    baseline: Setting
    treated: Setting
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class PaperTable:
    """A table of pass@1 in percent."""

    number: str
    title: str
    place: str
    comparisons: tuple[Comparison, ...]


class DiversityFigures(NamedTuple):
    """A row of Table 3: `self_bleu` is lower, the others are higher for more diverse samples."""

    model: str
    self_bleu: float
    edit: float
    unique: float


Q1, Q4, Q8, Q14 = "Qwen3-1.7B-Base", "Qwen3-4B-Base", "Qwen3-8B-Base", "Qwen3-14B-Base"
I2, I7 = "internlm2_5-1_8b", "internlm2_5-7b"

GRPO_8B = Setting("8B GRPO", Q8, None, ("grpo", "grpo_8b"))
GRPO_14B = Setting("14B GRPO", Q14, None, ("grpo_14b",))
GRPO_INTERN = Setting("7B GRPO", I7, None, ("grpo_internlm", "grpo_internlm2_5"))
S2L_1_8B = Setting("1.7B→8B S2L", Q8, Q1, ("s2l", "s2l_1.7b_to_8b"))
S2L_4_8B = Setting("4B→8B S2L", Q8, Q4, ("s2l_4b_to_8b",))
S2L_14B = Setting("4B→14B S2L", Q14, Q4, ("s2l_4b_to_14b",))
S2L_INTERN = Setting("1.8B→7B S2L", I7, I2, ("s2l_internlm", "s2l_internlm2_5"))
FILTERED = Setting("1.7B→8B S2L without diversity", Q8, Q1, ("without_diversity",))

TABLE_1 = PaperTable(
    "Table 1",
    "Cross-family main results, pass@1",
    "Section 4.2",
    (
        Comparison(
            "Qwen3, 1.7B→8B",
            GRPO_8B,
            S2L_1_8B,
            {
                "aime24": Figures(15.0, 23.8, 8.8),
                "aime25": Figures(12.1, 22.5, 10.4),
                "math500": Figures(57.3, 61.5, 4.2),
                "olympiadbench": Figures(18.1, 19.7, 1.7),  # the paper's slip: 19.7 - 18.1 = 1.6
            },
        ),
        Comparison(
            "Qwen3, 4B→14B",
            GRPO_14B,
            S2L_14B,
            {
                "aime24": Figures(18.0, 24.4, 6.4),
                "aime25": Figures(12.9, 14.6, 1.7),
                "math500": Figures(58.7, 62.7, 4.0),
                "olympiadbench": Figures(18.9, 21.9, 3.0),
            },
        ),
        Comparison(
            "InternLM2.5, 1.8B→7B",
            GRPO_INTERN,
            S2L_INTERN,
            {
                "aime24": Figures(0.1, 4.6, 4.5),
                "aime25": Figures(0.1, 3.5, 3.4),
                "math500": Figures(18.6, 22.6, 4.0),
                "olympiadbench": Figures(2.2, 3.4, 1.2),
            },
        ),
    ),
)
TABLE_2 = PaperTable(
    "Table 2",
    "Out-of-domain evaluation on CommonsenseQA, accuracy",
    "Section 4.2",
    (
        Comparison("Qwen3, 1.7B→8B", GRPO_8B, S2L_1_8B, {"commonsenseqa": Figures(63.9, 64.2)}),
        Comparison("Qwen3, 4B→8B", GRPO_8B, S2L_4_8B, {"commonsenseqa": Figures(63.9, 67.8)}),
        Comparison("Qwen3, 4B→14B", GRPO_14B, S2L_14B, {"commonsenseqa": Figures(67.2, 70.7)}),
    ),
)
TABLE_4 = PaperTable(
    "Table 4",
    "Controlled experiment: the explorer's diversity removed, pass@1",
    "Section 4.3",
    (
        Comparison(
            "S2L-PO over GRPO", GRPO_8B, S2L_1_8B, {"aime24": Figures(15.0, 23.8), "aime25": Figures(12.1, 22.5)}
        ),
        Comparison(
            "without diversity over GRPO",
            GRPO_8B,
            FILTERED,
            {"aime24": Figures(15.0, 14.7), "aime25": Figures(12.1, 12.0)},
        ),
    ),
)
TABLES = (TABLE_1, TABLE_2, TABLE_4)

STEPS, PROMPTS_PER_STEP = 16, 1024  # Appendix C: logical steps, training batch size
MODE = "nothink"  # Section 4.1, of all evaluations

TABLE_3_TITLE = "Diversity of samples on AIME24, K = 64"
TABLE_3_PLACE = "Section 4.3"
TABLE_3_BENCHMARK, TABLE_3_SAMPLES = "aime24", 64
TABLE_3 = (
    DiversityFigures(Q1, 0.314, 0.788, 0.576),
    DiversityFigures(Q4, 0.334, 0.773, 0.523),
    DiversityFigures(Q8, 0.336, 0.769, 0.492),
    DiversityFigures(Q14, 0.352, 0.760, 0.476),
)
