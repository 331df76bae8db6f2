"""Stage `report`: write the report, one HTML file that shows every model of a run and works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tli.io.files import write_text
from tli.io.structured import read_json
from tli.report import page


def run(*, source: Path, folder: Path, models: Sequence[str], pipeline: Path, requirements: Path, out: Path) -> None:
    """Writes the report.

    Args:
        source: folder with report.html.j2, report.css and report.js.
        folder: the folder of the stage report-data; MODEL.json of each of `models` is read.
        models: the models of the run; the page shows the first one first.
        pipeline: dvc.yaml.
        requirements: the list of packages with their versions.
        out: the HTML file to write.

    Raises:
        UserError: the file of a model is missing.
    """
    data = [read_json(folder / f"{model}.json", "a model's data") for model in models]
    write_text(out, page.render(data, source, pipeline, requirements))
