"""The pipeline as a drawing: stages of dvc.yaml by what they read of each other (the report's last section)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

WIDTH, HEIGHT, APART, BELOW = 112, 34, 40, 18  # of a box; between columns; between rows


class Stage(NamedTuple):
    """A stage, what it is for, the table that it feeds, its expected minutes, and the stages whose outputs it reads."""

    name: str
    desc: str
    table: str
    minutes: float
    after: tuple[str, ...]


def stages(pipeline: Mapping[str, Any]) -> list[Stage]:
    """The stages of a dvc.yaml, in its order. An edge that a longer way implies is left out."""
    listed: Mapping[str, Any] = pipeline["stages"]
    outs = {name: _outs(stage) for name, stage in listed.items()}
    direct = {
        name: {
            other
            for other, paths in outs.items()
            if other != name and any(_touch(dep, path) for dep in stage["deps"] for path in paths)
        }
        for name, stage in listed.items()
    }
    reached: dict[str, set[str]] = {}

    def behind(name: str) -> set[str]:
        if name not in reached:
            reached[name] = set().union(*(behind(other) | {other} for other in direct[name]))
        return reached[name]

    found = []
    for name, stage in listed.items():
        needed = tuple(o for o in listed if o in direct[name] and not any(o in behind(p) for p in direct[name]))
        meta = stage["meta"]
        found.append(Stage(name, " ".join(stage["desc"].split()), meta["table"], meta["minutes"], needed))
    return found


def _outs(stage: Mapping[str, Any]) -> list[str]:
    every = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in every]


def _touch(dep: str, out: str) -> bool:
    """Whether one path is the other or lies in it."""
    one, other = PurePosixPath(dep), PurePosixPath(out)
    return one.is_relative_to(other) or other.is_relative_to(one)


def draw(found: Sequence[Stage]) -> str:
    """An SVG: a column a step, boxes named by stage, a line from each stage to those that read it."""
    column: dict[str, int] = {}
    for stage in found:
        column[stage.name] = 1 + max((column[name] for name in stage.after), default=-1)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for stage in found:
        step = column[stage.name]
        row = rows.get(step, 0)
        rows[step] = row + 1
        place[stage.name] = (step * (WIDTH + APART) + 1, row * (HEIGHT + BELOW) + 1)
    wide = (1 + max(column.values())) * (WIDTH + APART) - APART + 2
    high = max(rows.values()) * (HEIGHT + BELOW) - BELOW + 2
    lines, boxes = [], []
    for stage in found:
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
    said = "; ".join(f"{one.name} after {', '.join(one.after)}" for one in found if one.after)
    label = html.escape(f"The pipeline: {said}.", quote=True)
    return (
        f'<svg class="dag" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" aria-label="{label}">'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )
