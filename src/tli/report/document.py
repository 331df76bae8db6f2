"""The paper as PDF: every number of its text, captions and tables is read from what the pipeline wrote (stage: paper).

main.typ holds the prose and no number; it looks values up in document.json by the keys of measured.json, verify.json,
params.yaml and reported.yaml, takes the sentences that depend on a result from `wording`, and the tables as they were
shown. One document shows every model of the run: a key of one model starts with the model's name. numbers.tex gives the
same values to who writes LaTeX. The same inputs give the same bytes: no date is written, and no font is used but those
that typst carries.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TextIO, cast

from tli.analysis import published, render
from tli.analysis.render import Kind, Page, shown, tex_number, tex_text
from tli.analysis.results import Measured, Value, flat, load_yaml
from tli.analysis.scores import said_of_items
from tli.analysis.views import left_out, points
from tli.config.parameters import Params
from tli.io.errors import CheckFailed
from tli.io.files import atomic_dir, atomic_write, write_text
from tli.io.structured import read_json, write_json
from tli.report import wording

SOURCES = ("main.typ", "style.typ", "references.bib")


class Run(NamedTuple):
    """What the document shows of one model."""

    params: Params
    tables: Page
    full: Page | None  # the model's full grid, where its tables are there
    measured: Measured
    verify: Mapping[str, Any]


def run(
    *,
    source: Path,
    tables: Path,
    figures: Path,
    results: Path,
    reported: Path,
    numbers: Path,
    out: Path,
    models: Sequence[Params],
) -> None:
    """The `paper` stage.

    Args:
        source: folder with main.typ, style.typ and references.bib.
        tables, figures: parent folders of each model's tables and figures; MODEL-full beside MODEL is its full grid.
        results: parent folder of each model's measured.json and verify.json.
        reported: paper/reported.yaml.
        numbers: folder to write, replaced as a whole: document.json and numbers.tex.
        out: the PDF to write.
        models: the parameters of each model, in the order in which the document shows them.

    Raises:
        UserError: the tables or results of a model are missing.
    """
    runs = [read(tables, results, params) for params in models]
    made = content(runs, load_yaml(reported))
    with atomic_dir(numbers) as folder:
        write_json(folder / "document.json", made)
        write_text(folder / "numbers.tex", macros(made["numbers"]))
    compile_pdf(source, numbers / "document.json", pictures(figures, runs), out)


def read(tables: Path, results: Path, params: Params) -> Run:
    """What the stages `tables` and `verify` wrote of one model, and its full grid where that is there."""
    model = params.model
    full = tables / f"{model}-full"
    return Run(
        params=params,
        tables=render.read(tables / model),
        full=render.read(full) if full.is_dir() else None,
        measured=read_json(results / model / "measured.json", "measured values by key"),
        verify=read_json(results / model / "verify.json", "verdicts"),
    )


def pictures(figures: Path, runs: Sequence[Run]) -> dict[str, Path]:
    """Folder of figures by the place at which main.typ reads it."""
    names = [run.params.model for run in runs] + [f"{run.params.model}-full" for run in runs if run.full]
    return {f"figures/{name}": figures / name for name in names}


def content(runs: Sequence[Run], reported: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that main.typ looks up, as text where a reader sees it."""
    return {"numbers": all_numbers(runs, reported), "models": [_model(run) for run in runs]}


def _model(run: Run) -> dict[str, Any]:
    params, tables = run.params, run.tables.tables
    return {
        "name": params.model,
        "source": params.active.model.source,
        "benchmarks": params.active.benchmarks.source,
        "published_model": published.is_published_model(params),
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "views": points(params),
        "left_out": left_out(params),
        "said": wording.all_sentences(tables, run.full.tables if run.full else {}, run.verify, params),
        "tables": {name: table.displayed() for name, table in tables.items()},
        "figures": [figure._asdict() for figure in run.tables.figures],
        "full": _full(run.full) if run.full else None,
    }


def _full(page: Page) -> dict[str, Any]:
    return {
        "bases": page.bases,
        "revision": page.revision,
        "tables": {name: table.displayed() for name, table in page.tables.items()},
        "figures": [figure._asdict() for figure in page.figures],
    }


def all_numbers(runs: Sequence[Run], reported: Mapping[str, Any]) -> dict[str, str]:
    """Key -> value as a reader sees it.

    `published.` and `study.`: of the literature. `params.`: what every model shares. MODEL`.run.`, MODEL`.verify.` and
    MODEL`.params.`: measured, judged and set for one model.
    """
    blocks = int(reported["setup"]["blocks"]["paper"])
    kept = {key: value for key, value in reported.items() if key not in ("claims", "examples")}
    values: Measured = {"published.first_layer": 0, "published.last_but_one": blocks - 1}
    values["published.pilot_last_but_one"] = reported["pilot"][blocks - 1]
    values |= flat(kept, "published")
    values |= {f"study.{key}": runs[0].verify["claims"][key] for key in ("number", "verified")}
    settings = [_settings(run.params) for run in runs]
    shared = {key for key in settings[0] if all(other.get(key) == settings[0][key] for other in settings)}
    values |= {key: settings[0][key] for key in shared}
    numbers = {key: text(key, value) for key, value in values.items()}
    for run, own_settings in zip(runs, settings, strict=True):
        of_model = {key: value for key, value in own_settings.items() if key not in shared} | _measured(run)
        of_model |= flat(run.params.active.model_dump(mode="json"), "params")
        numbers |= {f"{run.params.model}.{key}": text(key, value) for key, value in of_model.items()}
    return dict(sorted(numbers.items()))


def _settings(params: Params) -> Measured:
    """The parameters outside `profiles`. train.layer may be a word, which means another number for another model."""
    return flat(params.model_dump(mode="json", exclude={"profiles", "arms", "model"}), "params")


def _measured(run: Run) -> Measured:
    verdicts = {key: run.verify[key] for key in ("verdicts", "claims")}
    return {f"run.{key}": value for key, value in run.measured.items()} | flat(verdicts, "verify")


KINDS: tuple[tuple[str, Kind], ...] = (
    (r"^params\.|half_unit|\.seeds?\b", "number"),
    (r"\.(slope_)?p(\.|$)", "p"),
    (r"\.(t|d_z|welch_t|odds_\w+)(\.|$)", "t"),
    (r"\.(xcopa|xnli)\b.*\.(change\w*|gain)$|rank\.(change|worst|span|slope)\.(xcopa|xnli)", "points"),
    (r"\b(transfer|baseline|class|items)\.(xcopa|xnli)|rank\.range\.(xcopa|xnli)", "percent"),
    (r"gain_sd|_sd\b", "similarity"),
    (r"\b(gain|difference|change|left|slope|span|worst)\b|_change|random_(trained|control)", "change"),
    (r"\b(p1|p5|mrr|csls)_|\b(r|rho)_", "score"),
    (r"\b(cosine|random|before|after|pilot)\b", "similarity"),
)


def kind(key: str) -> Kind:
    """How the number of a key is rounded: the first pattern that it matches, else four significant digits."""
    return next((rounding for pattern, rounding in KINDS if re.search(pattern, key)), "number")


def text(key: str, value: Value) -> str:
    """A value as a reader sees it, a minus sign for a hyphen."""
    if isinstance(value, int):
        return shown(value, "count").replace("-", "−")
    if isinstance(value, float):
        rounding = kind(key)
        return shown(value, rounding) if rounding == "p" else shown(value, rounding).replace("-", "−")
    return shown(value, "text")


MACROS = r"""% Every number as a macro: \tli{microworld.run.align.trained.gain.2.mask.nf4}. Made by the stage `paper`.
% Needs amssymb. A key that does not exist is an error.
\newcommand{\tli}[1]{\ifcsname tli:#1\endcsname\csname tli:#1\endcsname\else
  \PackageError{tli}{no number #1}{The keys stand in numbers.tex.}\fi}
\newcommand{\tlinumber}[2]{\expandafter\gdef\csname tli:#1\endcsname{#2}}
"""


def macros(numbers: Mapping[str, str]) -> str:
    """numbers.tex: \\tli{KEY} for every key; a number in math mode, what is text as it is."""
    lines = [f"\\tlinumber{{{key}}}{{{_macro(value)}}}" for key, value in numbers.items()]
    return MACROS + "\n".join(lines) + "\n"


def _macro(value: str) -> str:
    number = value.replace("−", "-")
    return tex_number(number) if re.fullmatch(r"[+≤-]?[\d.]+(e-?\d+)?", number) else tex_text(value)


def compile_pdf(source: Path, data: Path, figures: Mapping[str, Path], out: Path) -> None:
    """Compiles source/main.typ with `data` and the figures' folders beside it, in a folder of its own.

    Raises:
        CheckFailed: typst refuses, for instance since the prose looks up a key that this run does not have.
    """
    import typst

    with TemporaryDirectory() as name:
        folder = gather(Path(name), source, data, figures)
        try:
            made = typst.compile(folder / "main.typ", root=folder, ignore_system_fonts=True)
        except typst.TypstError as error:
            where = re.search(r"\w+\.typ:\d+", error.diagnostic)
            message = " ".join(error.message.split())
            raise CheckFailed(f"{source / (where[0] if where else 'main.typ')}: {message}; mend the source") from None
    with atomic_write(out) as file:
        cast(TextIO, file).buffer.write(made)


def gather(folder: Path, source: Path, data: Path, figures: Mapping[str, Path]) -> Path:
    """Copies what main.typ reads into `folder`, under the names that it reads."""
    for file in SOURCES:
        shutil.copyfile(source / file, folder / file)
    shutil.copyfile(data, folder / "document.json")
    for place, pictures_of in figures.items():
        shutil.copytree(pictures_of, folder / place)
    return folder
