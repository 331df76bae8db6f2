"""The paper as PDF: every number of its text, captions and tables is read from what the pipeline wrote (stage: paper).

main.typ holds the prose and no number; it looks values up in document.json by the keys of measured.json, verify.json,
params.yaml and reported.yaml, takes the sentences that depend on a result from `wording`, and the tables as they were
shown. numbers.tex gives the same values to who writes LaTeX. The same inputs give the same bytes: no date is written,
and no font is used but those that typst carries.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TextIO, cast

from tli import store
from tli.paper import collected, published, wording
from tli.paper.collected import Collected, Page
from tli.paper.render import Kind, shown, tex_number, tex_text
from tli.paper.rows import Measured, Value, flat, load_yaml
from tli.paper.scores import said_of_items
from tli.paper.similarity import left_out, points
from tli.params import Params

SOURCES = ("main.typ", "style.typ", "references.bib")


class Inputs(NamedTuple):
    """What the document is made of."""

    tables: Page
    full: Page | None  # of the full grid, where it was run
    measured: Measured
    verify: Mapping[str, Any]
    reported: Mapping[str, Any]


def run(
    *,
    source: Path,
    tables: Path,
    figures: Path,
    full: Path,
    full_figures: Path,
    measured: Path,
    verify: Path,
    reported: Path,
    numbers: Path,
    out: Path,
    params: Params,
) -> None:
    """The `paper` stage.

    Args:
        source: folder with main.typ, style.typ and references.bib.
        tables, figures: folders of the stage `tables`.
        full, full_figures: the same of the full grid; where `full` does not exist, the document says so.
        measured, verify, reported: as the stages of that name read and write them.
        numbers: folder to write, replaced as a whole: document.json and numbers.tex.
        out: the PDF to write.
    """
    inputs = Inputs(
        collected.read(tables),
        collected.read(full) if full.is_dir() else None,
        store.read_json(measured),
        store.read_json(verify),
        load_yaml(reported),
    )
    made = content(inputs, params)
    with store.atomic_dir(numbers) as folder:
        store.write_json(folder / "document.json", made)
        store.write_text(folder / "numbers.tex", macros(made["numbers"]))
    pictures = {"figures": figures} | ({"full": full_figures} if inputs.full else {})
    compile_pdf(source, numbers / "document.json", pictures, out)


def content(inputs: Inputs, params: Params) -> dict[str, Any]:
    """Everything that main.typ looks up, as text where a reader sees it."""
    tables = inputs.tables.tables
    return {
        "profile": params.model,
        "microworld": params.active.model.source in ("versioned", "pretrain"),
        "published_model": published.is_published_model(params),
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "views": points(params),
        "left_out": left_out(params),
        "numbers": said_numbers(inputs, params),
        "said": wording.all_sentences(tables, inputs.full.tables if inputs.full else {}, inputs.verify, params),
        "tables": {name: _shown(table) for name, table in tables.items()},
        "figures": [figure._asdict() for figure in inputs.tables.figures],
        "full": _full(inputs.full) if inputs.full else None,
    }


def _shown(table: Collected) -> dict[str, Any]:
    return {
        "title": table.title,
        "caption": table.caption,
        "columns": [column._asdict() for column in table.columns],
        "lines": table.lines,
        "notes": table.notes,
    }


def _full(page: Page) -> dict[str, Any]:
    return {
        "intro": page.intro,
        "tables": {name: _shown(table) for name, table in page.tables.items()},
        "figures": [figure._asdict() for figure in page.figures],
    }


def said_numbers(inputs: Inputs, params: Params) -> dict[str, str]:
    """Key -> value as a reader sees it: `run.` measured, `verify.`, `params.` with the profile's part, `published.`."""
    profile = params.active.model_dump(mode="json")
    shared = params.model_dump(mode="json", exclude={"profiles", "arms"})
    verdicts = {key: inputs.verify[key] for key in ("verdicts", "claims")}
    blocks = {"run": params.active.model.blocks, "published": int(inputs.reported["setup"]["blocks"]["paper"])}
    found: Measured = {f"{who}.last_but_one": number - 1 for who, number in blocks.items()}
    found["published.pilot_last_but_one"] = inputs.reported["pilot"][blocks["published"] - 1]
    found |= {"run.first_layer": 0} | {f"run.{key}": value for key, value in inputs.measured.items()}
    found |= flat(verdicts, "verify") | flat(shared, "params") | flat(profile, "params")
    kept = {key: value for key, value in inputs.reported.items() if key not in ("claims", "examples")}
    found |= flat(kept, "published")
    return {key: text(key, value) for key, value in sorted(found.items())}


KINDS: tuple[tuple[str, Kind], ...] = (
    (r"^params\.|half_unit|\.seeds?\b", "number"),
    (r"log10_p", "p"),
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
    return next((found for pattern, found in KINDS if re.search(pattern, key)), "number")


def text(key: str, value: Value) -> str:
    """A value as a reader sees it, a minus sign for a hyphen."""
    if isinstance(value, int):
        return shown(value, "count").replace("-", "−")
    if isinstance(value, float):
        found = kind(key)
        return shown(value, found) if found == "p" else shown(value, found).replace("-", "−")
    return shown(value, "text")


MACROS = r"""% Every number of the run as a macro: \tli{run.align.trained.gain.2.mask.nf4}. Made by the stage `paper`.
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
    return tex_number(number) if re.fullmatch(r"[+-]?[\d.]+(e-?\d+)?", number) else tex_text(value)


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
            said = " ".join(error.message.split())
            raise store.CheckFailed(
                f"{source / (where[0] if where else 'main.typ')}: {said}; mend the source"
            ) from None
    with store.atomic_write(out) as file:
        cast(TextIO, file).buffer.write(made)


def gather(folder: Path, source: Path, data: Path, figures: Mapping[str, Path]) -> Path:
    """Copies what main.typ reads into `folder`, under the names that it reads."""
    for file in SOURCES:
        shutil.copyfile(source / file, folder / file)
    shutil.copyfile(data, folder / "document.json")
    for place, pictures in figures.items():
        shutil.copytree(pictures, folder / place)
    return folder
