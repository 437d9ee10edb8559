"""What a matplotlib figure shows, as plain lists."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D


def points(line: Line2D) -> list[tuple[float, float]]:
    """The points of a line in order, NaN where it has a gap."""
    return [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()]


def legend(axes: Axes) -> list[str]:
    """The labels of the legend in order."""
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]
