"""The pipeline as a drawing: the stages of dvc.yaml, each after those whose outputs it reads (report, last section)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

WIDTH, HEIGHT = 112, 34  # of a box
COLUMN_GAP, ROW_GAP = 40, 18


class Stage(NamedTuple):
    """A stage: its purpose, the table that it feeds, its expected minutes, and the stages whose outputs it reads."""

    name: str
    desc: str
    table: str
    minutes: float
    after: tuple[str, ...]


def stages(pipeline: Mapping[str, Any]) -> list[Stage]:
    """The stages of a dvc.yaml, in its order. An edge that a longer path implies is left out."""
    listed: Mapping[str, Any] = pipeline["stages"]
    outs = {name: _outs(stage) for name, stage in listed.items()}
    direct = {
        name: {
            other
            for other, paths in outs.items()
            if other != name and any(_overlap(dep, path) for dep in stage["deps"] for path in paths)
        }
        for name, stage in listed.items()
    }
    ancestors: dict[str, set[str]] = {}

    def before(name: str) -> set[str]:
        if name not in ancestors:
            ancestors[name] = set().union(*(before(other) | {other} for other in direct[name]))
        return ancestors[name]

    result = []
    for name, stage in listed.items():
        after = tuple(o for o in listed if o in direct[name] and not any(o in before(p) for p in direct[name]))
        meta = stage["meta"]
        result.append(Stage(name, " ".join(stage["desc"].split()), meta["table"], meta["minutes"], after))
    return result


def _outs(stage: Mapping[str, Any]) -> list[str]:
    entries = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in entries]


def _overlap(dep: str, out: str) -> bool:
    """Whether the paths are the same, or one lies in the other."""
    first, second = PurePosixPath(dep), PurePosixPath(out)
    return first.is_relative_to(second) or second.is_relative_to(first)


def draw(stages: Sequence[Stage]) -> str:
    """An SVG: one column per step, a box per stage, and a line from each stage to those that read its outputs."""
    column: dict[str, int] = {}
    for stage in stages:
        column[stage.name] = 1 + max((column[name] for name in stage.after), default=-1)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for stage in stages:
        step = column[stage.name]
        row = rows.get(step, 0)
        rows[step] = row + 1
        place[stage.name] = (step * (WIDTH + COLUMN_GAP) + 1, row * (HEIGHT + ROW_GAP) + 1)
    width = (1 + max(column.values())) * (WIDTH + COLUMN_GAP) - COLUMN_GAP + 2
    height = max(rows.values()) * (HEIGHT + ROW_GAP) - ROW_GAP + 2
    lines, boxes = [], []
    for stage in stages:
        x, y = place[stage.name]
        for name in stage.after:
            left, top = place[name]
            start, end, middle = left + WIDTH, x, (left + WIDTH + x) / 2
            lines.append(
                f'<path class="edge" d="M{start} {top + HEIGHT / 2:g} C{middle:g} {top + HEIGHT / 2:g} {middle:g} '
                f'{y + HEIGHT / 2:g} {end} {y + HEIGHT / 2:g}"/>'
            )
        boxes.append(
            f'<g><title>{html.escape(stage.desc)}</title><rect class="box" x="{x}" y="{y}" width="{WIDTH}" '
            f'height="{HEIGHT}" rx="5"/><text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 4:g}" text-anchor="middle">'
            f"{html.escape(stage.name)}</text></g>"
        )
    edges = "; ".join(f"{stage.name} after {', '.join(stage.after)}" for stage in stages if stage.after)
    label = html.escape(f"The pipeline: {edges}.", quote=True)
    return (
        f'<svg class="dag" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{label}">'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )
