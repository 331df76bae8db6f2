"""The content of the paper and its PDF.

paper/main.typ holds the prose and no number. It looks numbers up in document.json by the keys of numbers.py, takes
the sentences that depend on a result from wording.py, and shows the tables of tables.json. One document shows every
model of the run. The same inputs give the same bytes: no date is written, and only typst's own fonts are used.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO, cast

from tli.analysis import published
from tli.analysis.render import read_model
from tli.analysis.scores import said_of_items
from tli.analysis.views import left_out, points
from tli.config.parameters import Params
from tli.io.errors import CheckFailed
from tli.io.files import atomic_write
from tli.io.structured import read_json
from tli.report import wording
from tli.report.cells import displayed
from tli.report.numbers import ModelRun, all_numbers

SOURCES = ("main.typ", "style.typ", "references.bib")


def read(results: Path, params: Params) -> ModelRun:
    """Reads what the stages `tables` and `verify` wrote of one model.

    Args:
        results: the parent folder of each model's tables.json and verify.json.

    Raises:
        UserError: a file is missing.
    """
    folder = results / params.model
    return ModelRun(params, read_model(folder / "tables.json"), read_json(folder / "verify.json", "verdicts"))


def content(runs: Sequence[ModelRun], reported: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that main.typ looks up, as text where a reader sees it.

    Args:
        reported: paper/reported.yaml.
    """
    return {"numbers": all_numbers(runs, reported), "models": [_model(run) for run in runs]}


def _model(run: ModelRun) -> dict[str, Any]:
    params, tables = run.params, run.written.tables
    return {
        "name": params.model,
        "source": params.active.model.source,
        "benchmarks": params.active.benchmarks.source,
        "published_model": published.is_published_model(params),
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "views": points(params),
        "left_out": left_out(params),
        "sentences": wording.all_sentences(tables, run.verify, params),
        "tables": {name: displayed(table) for name, table in tables.items()},
        "figures": [figure._asdict() for figure in run.written.figures],
    }


def compile_pdf(source: Path, data: Path, figures: Mapping[str, Path], out: Path) -> None:
    """Compiles source/main.typ in a temporary folder.

    Args:
        source: folder with main.typ, style.typ and references.bib.
        data: document.json.
        figures: model -> its folder of figures.
        out: the PDF to write.

    Raises:
        CheckFailed: typst refuses, for example because the prose looks up a key that this run does not have.
    """
    import typst

    with TemporaryDirectory() as name:
        folder = gather(Path(name), source, data, figures)
        try:
            pdf = typst.compile(folder / "main.typ", root=folder, ignore_system_fonts=True)
        except typst.TypstError as error:
            where = re.search(r"\w+\.typ:\d+", error.diagnostic)
            message = " ".join(error.message.split())
            raise CheckFailed(
                f"{source / (where[0] if where else 'main.typ')}: {message}; correct the source"
            ) from None
    with atomic_write(out) as file:
        cast(TextIO, file).buffer.write(pdf)


def gather(folder: Path, source: Path, data: Path, figures: Mapping[str, Path]) -> Path:
    """Copies what main.typ reads into `folder`, under the names that it reads; arguments as of `compile_pdf`."""
    for file in SOURCES:
        shutil.copyfile(source / file, folder / file)
    shutil.copyfile(data, folder / "document.json")
    for model, drawings in figures.items():
        shutil.copytree(drawings, folder / "figures" / model)
    return folder
