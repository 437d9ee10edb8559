"""What a matplotlib figure shows, as plain lists."""

from __future__ import annotations

import numpy as np
from matplotlib.legend import Legend
from matplotlib.lines import Line2D


def points(line: Line2D) -> list[tuple[float, float]]:
    """The points of a line in order, NaN where it has a gap."""
    return [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()]


def legend_texts(legend: Legend | None) -> list[str]:
    """The labels of a legend in order."""
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]
