"""A matplotlib figure as SVG that stands in a page: its colours follow the page, its names are its own."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ID = re.compile(r'\bid="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^")]*)')


def inline_svg(figure: Figure, prefix: str, colors: Mapping[str, str], label: str) -> str:
    """The figure as an `<svg>` element without outside names.

    `prefix` begins each id, so that two pictures of a page share none. `colors` maps a color as matplotlib writes it
    (`#rrggbb`) to a CSS value. `label` is what a screen reader says; it must be escaped.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return tidy(buffer.getvalue(), prefix, colors, label)


def tidy(text: str, prefix: str, colors: Mapping[str, str], label: str) -> str:
    """Takes away what only a file of its own needs, and renames ids and colors."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda found: f'id="{prefix}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", text)
    for color, value in colors.items():
        text = text.replace(color.lower(), value)
    # Widths were measured in matplotlib's own font, which is wider than most: the page's font fits.
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None  # matplotlib always writes one
    return f'<svg role="img" aria-label="{label}" {view[0]}>{body}'
