"""The report: one HTML file that shows every model of a run and needs neither server nor network (stage: report).

The page is paper/report/report.html.j2 with report.css and report.js written into it, and what the stage `report-data`
gathered of each model. Times and memory are no part of it, so that the same rows give the same bytes:
docs/costs/MODEL/costs.md has them.
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
from tli.io.files import read_text, write_text
from tli.io.structured import read_json
from tli.report import dag


def run(*, source: Path, folder: Path, models: Sequence[str], pipeline: Path, requirements: Path, out: Path) -> None:
    """The `report` stage.

    Args:
        source: folder with report.html.j2, report.css and report.js.
        folder: what `report-data` wrote: MODEL.json of each of `models`. Other files there are of other runs.
        models: the models of the run; the page shows the first one first.
        pipeline: dvc.yaml. requirements: the list of packages with their versions.
        out: the HTML file to write.

    Raises:
        UserError: the file of a model is missing.
    """
    runs = [read_json(folder / f"{model}.json", "a model's data") for model in models]
    stages = dag.stages(load_yaml(pipeline))
    plots = {written["model"]: written["plots"] for written in runs}
    context = {
        "runs": [_shown(written) for written in runs],
        "data": Markup(json.dumps(plots, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")),
        "stages": stages,
        "dag": Markup(dag.draw(stages)),
        "packages": re.findall(r"^([\w.-]+)==(\S+)", read_text(requirements), re.M),
        "style": Markup(read_text(source / "report.css")),
        "script": Markup(read_text(source / "report.js")),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "grid": grid_of}
    page_text = environment.from_string(read_text(source / "report.html.j2")).render(context)
    write_text(out, page_text + "\n")


def _shown(written: Mapping[str, Any]) -> dict[str, Any]:
    """A model's data as the template reads them, with which views have anything to draw."""
    return {**written, "has": {name: bool(values) for name, values in written["plots"].items()}}


def inline(sentence: str) -> Markup:
    """Text with `code` as HTML, a power of ten raised."""
    pieces = []
    for index, piece in enumerate(sentence.split("`")):
        safe = str(escape(piece))
        raised = re.sub(r"([\d.]+)e(-?)(\d+)", lambda m: f"{m[1]} × 10<sup>{'−' * bool(m[2])}{m[3]}</sup>", safe)
        pieces.append(f"<code>{safe}</code>" if index % 2 else raised.replace("d_z", "<i>d</i><sub>z</sub>"))
    return Markup("".join(pieces))


def grid_of(table: Mapping[str, Any], *keys: str) -> Markup:
    """A table, or some of its columns, as HTML that scrolls where the screen is narrow."""
    at = [index for index, column in enumerate(table["columns"]) if not keys or column["key"] in keys]
    side = ["n" if table["columns"][index]["number"] else "t" for index in at]
    head = "".join(
        f'<th scope="col" class="{side}">{inline(table["columns"][index]["title"])}</th>'
        for index, side in zip(at, side, strict=True)
    )
    lines = []
    for line in table["lines"]:
        cells = [inline(line[index]) for index in at]
        first = f'<th scope="row" class="{side[0]}">{cells[0]}</th>'
        rest = (f'<td class="{mark}">{cell}</td>' for mark, cell in zip(side[1:], cells[1:], strict=True))
        lines.append(f"<tr>{first}{''.join(rest)}</tr>")
    title = escape(table["title"])
    return Markup(
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><caption class="out">{title}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
