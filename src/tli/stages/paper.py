"""Stage `paper`: write the paper as PDF, and its numbers for LaTeX.

Each number of the text is read from results/MODEL/tables.json, results/MODEL/verify.json, params.yaml or
paper/reported.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tli.analysis.results import load_yaml
from tli.config.parameters import Params
from tli.io.files import atomic_dir, write_text
from tli.io.structured import write_json
from tli.report import document
from tli.report.numbers import macros


def run(
    *, source: Path, results: Path, figures: Path, reported: Path, numbers: Path, out: Path, models: Sequence[Params]
) -> None:
    """Writes the paper.

    Args:
        source: folder with main.typ, style.typ and references.bib.
        results: parent folder of each model's tables.json and verify.json.
        figures: parent folder of each model's figures.
        reported: paper/reported.yaml.
        numbers: folder to write, replaced as a whole: document.json and numbers.tex.
        out: the PDF to write.
        models: the parameters of each model, in the order in which the document shows them.

    Raises:
        UserError: the tables or verdicts of a model are missing.
    """
    runs = [document.read(results, params) for params in models]
    content = document.content(runs, load_yaml(reported))
    with atomic_dir(numbers) as folder:
        write_json(folder / "document.json", content)
        write_text(folder / "numbers.tex", macros(content["numbers"]))
    drawings = {params.model: figures / params.model for params in models}
    document.compile_pdf(source, numbers / "document.json", drawings, out)
