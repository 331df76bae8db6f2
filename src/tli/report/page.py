"""The report's HTML: paper/report/report.html.j2, with report.css and report.js written into it.

Times and memory are not part of it, so that the same rows give the same bytes; docs/costs/MODEL/costs.md has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from tli.analysis.results import load_yaml
from tli.io.files import read_text
from tli.report import dag


def render(data: Sequence[Mapping[str, Any]], source: Path, pipeline: Path, requirements: Path) -> str:
    """Returns the page.

    Args:
        data: what page_data collected of each model; the page shows the first one first.
        source: folder with report.html.j2, report.css and report.js.
        pipeline: dvc.yaml.
        requirements: the list of packages with their versions.
    """
    stages = dag.stages(load_yaml(pipeline))
    plots = {of_model["model"]: of_model["plots"] for of_model in data}
    context = {
        "runs": [{**of_model, "has": _not_empty(of_model["plots"])} for of_model in data],
        "data": Markup(json.dumps(plots, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")),
        "stages": stages,
        "dag": Markup(dag.draw(stages)),
        "packages": re.findall(r"^([\w.-]+)==(\S+)", read_text(requirements), re.M),
        "style": Markup(read_text(source / "report.css")),
        "script": Markup(read_text(source / "report.js")),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "grid": table_html}
    return environment.from_string(read_text(source / "report.html.j2")).render(context) + "\n"


def _not_empty(plots: Mapping[str, Any]) -> dict[str, bool]:
    """Plot -> whether there is anything to draw."""
    return {name: bool(values) for name, values in plots.items()}


def inline(sentence: str) -> Markup:
    """Text with `code` as HTML, a power of ten raised."""
    pieces = []
    for index, piece in enumerate(sentence.split("`")):
        safe = str(escape(piece))
        raised = re.sub(r"([\d.]+)e\+?(-?)0*(\d+)", lambda m: f"{m[1]} × 10<sup>{'−' * bool(m[2])}{m[3]}</sup>", safe)
        pieces.append(f"<code>{safe}</code>" if index % 2 else raised.replace("d_z", "<i>d</i><sub>z</sub>"))
    return Markup("".join(pieces))


def table_html(table: Mapping[str, Any], *keys: str) -> Markup:
    """A table, or some of its columns, with its source line; it scrolls where the screen is narrow."""
    places = [index for index, column in enumerate(table["columns"]) if not keys or column["key"] in keys]
    marks = ["n" if table["columns"][index]["number"] else "t" for index in places]
    head = "".join(
        f'<th scope="col" class="{mark}">{inline(table["columns"][index]["title"])}</th>'
        for index, mark in zip(places, marks, strict=True)
    )
    lines = []
    for line in table["lines"]:
        first, *rest = (inline(line[index]) for index in places)
        cells = (f'<td class="{mark}">{cell}</td>' for mark, cell in zip(marks[1:], rest, strict=True))
        lines.append(f'<tr><th scope="row" class="{marks[0]}">{first}</th>{"".join(cells)}</tr>')
    title = escape(table["title"])
    return Markup(
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><caption class="out">{title}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        f'<p class="source">{inline(table["source"])}</p>'
    )
