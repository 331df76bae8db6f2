"""Draws every figure of a model (stage: tables).

A figure is a module of this package with `figure(results, params)`, which returns the canvas, the caption, and a
description for readers who cannot see it; or None where the model has nothing to draw. To add a figure, add a module
and its name to ORDER.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from matplotlib import style

from tli.analysis.render import Figure
from tli.analysis.results import Results
from tli.config.parameters import Params
from tli.figures.drawing import STYLE, svg
from tli.io.files import atomic_dir, write_text

ORDER = ("scan", "before_after", "retrieval", "projection", "ranks", "study")


def write(folder: Path, results: Results, params: Params) -> list[Figure]:
    """Draws every figure into `folder`, which is replaced as a whole.

    Args:
        results: its `tables` holds the model's tables; `ranks` draws the intervals of the table `changes`.
    """
    figures = []
    with atomic_dir(folder) as temporary, style.context(["default", STYLE]):
        for name in ORDER:
            drawing = import_module(f"tli.figures.{name}").figure(results, params)
            if drawing is not None:
                canvas, caption, alt = drawing
                write_text(temporary / f"{name}.svg", svg(canvas))
                figures.append(Figure(f"{name}.svg", caption, alt))
    return figures
