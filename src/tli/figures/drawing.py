"""Style, colours and panels of every figure, and SVG files whose bytes depend only on the rows.

Glyphs are paths of the font that matplotlib ships, identifiers are salted with a constant, and no date is written. The
colours are those of Okabe and Ito, which colour-blind readers can distinguish; shapes and line styles differ too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
STYLE: Any = {
    "svg.hashsalt": "tli",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
}


def svg(canvas: Canvas) -> str:
    """Returns the figure as SVG text, without a date and without the version of matplotlib."""
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


@contextmanager
def panels(rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Canvas, list[Axes]]]:
    """Yields a figure of rows x columns panels; width and height in inches."""
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False)
    yield canvas, [*axes.flat]
