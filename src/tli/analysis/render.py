"""What is generated from tables as data: Markdown, CSV, LaTeX, and the folder paper/tables (all tables).

The stage `tables` writes results/MODEL/tables.json, with every table of a model; the stage `pages` puts the models of a
run side by side. Nothing parses the generated files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.analysis.table import Column, Table, from_json, to_json
from tli.io.errors import UserError
from tli.io.files import atomic_dir, write_text
from tli.io.structured import read_json, write_json


class Figure(NamedTuple):
    """A figure: its file below paper/figures/MODEL, its caption, and a description for who cannot see it."""

    file: str
    caption: str
    alt: str


class ModelTables(NamedTuple):
    """The tables and figures of one model, as results/MODEL/tables.json holds them."""

    model: str
    tables: Mapping[str, Table]
    figures: Sequence[Figure]


def write_model(path: Path, written: ModelTables) -> None:
    """Writes results/MODEL/tables.json."""
    tables = [to_json(table) for table in written.tables.values()]
    figures = [figure._asdict() for figure in written.figures]
    write_json(path, {"model": written.model, "tables": tables, "figures": figures})


def read_model(path: Path) -> ModelTables:
    """Reads results/MODEL/tables.json.

    Raises:
        UserError: the file is missing or not of that form.
    """
    written = read_json(path, "tables as `dvc repro` writes them")
    try:
        tables = [from_json(table) for table in written["tables"]]
        figures = [Figure(**figure) for figure in written["figures"]]
        return ModelTables(written["model"], {table.name: table for table in tables}, figures)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected tables as `dvc repro` writes them, got {error!r}; run `dvc repro`") from None


def side_by_side(models: Sequence[ModelTables]) -> list[Table]:
    """The tables of several models, with a first column `model`.

    A note that holds for some models only begins with their names.
    """
    names = dict.fromkeys(name for one in models for name in one.tables)
    return [_joined([(one.model, one.tables[name]) for one in models if name in one.tables], models) for name in names]


def _joined(parts: Sequence[tuple[str, Table]], models: Sequence[ModelTables]) -> Table:
    first = parts[0][1]
    columns = {column.key: column for _, table in parts for column in table.columns}
    rows, text = [], []
    for model, table in parts:
        rows += [{"model": model, **row} for row in table.rows]
        for line in table.text:
            cells = dict(zip((column.key for column in table.columns), line, strict=True))
            text.append([model, *(cells.get(key, "-") for key in columns)])
    notes: dict[str, list[str]] = {}
    for model, table in parts:
        for note in table.notes:
            notes.setdefault(note, []).append(model)
    return Table(
        name=first.name,
        title=first.title,
        caption=first.caption,
        columns=[Column("model", "model", id=True), *columns.values()],
        rows=rows,
        view=first.view,
        notes=[n if len(of) == len(models) else f"{', '.join(of)}: {n}" for n, of in notes.items()],
        source=first.source,
        text=text,
    )


def to_csv(table: Table) -> str:
    """The cells as shown, but for thousands separators, signs of positive numbers and the minus sign."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(column.key for column in table.columns), *(["view"] if table.view else [])])
    for line in table.text:
        cells = [
            cell if column.kind == "text" else cell.replace(",", "").replace("−", "-").removeprefix("+")
            for cell, column in zip(line, table.columns, strict=True)
        ]
        writer.writerow([*cells, *([table.view] if table.view else [])])
    return text.getvalue()


def to_md(table: Table, level: int = 1) -> str:
    """A GitHub table under a heading: the caption above, notes and source below."""
    head = [column.title.replace("|", "\\|") for column in table.columns]
    rule = [":--" if column.kind == "text" else "--:" for column in table.columns]
    body = [[cell.replace("|", "\\|") for cell in line] for line in table.text]
    grid = ["| " + " | ".join(line) + " |" for line in [head, rule, *body]]
    notes = [f"- {note}" for note in table.notes]
    parts = [f"{'#' * level} {table.title}", table.full_caption, "\n".join(grid), "\n".join(notes), table.source_line]
    return "\n\n".join(part for part in parts if part) + "\n"


_TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "−": "$-$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≠": r"$\neq$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "ρ": r"$\rho$",
    "‖": r"$\|$",
    "✓": r"$\checkmark$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def tex_text(text: str) -> str:
    """Text with LaTeX's characters escaped and `code` in typewriter."""
    escaped = "".join(_TEX.get(char, char) for char in text)
    pieces = escaped.split("`")
    return "".join(rf"\texttt{{{piece}}}" if index % 2 else piece for index, piece in enumerate(pieces))


def tex_number(number: str) -> str:
    """A formatted number in math mode, an exponent as a power of ten."""
    mantissa, _, exponent = number.replace("−", "-").replace("≤", r"\leq ").partition("e")
    return f"${mantissa}$" if not exponent else rf"${mantissa}\times 10^{{{exponent}}}$"


def to_tex(table: Table) -> str:
    """A booktabs table with caption and label; needs the packages booktabs, amssymb and graphicx."""
    longest = [max((len(line[index]) for line in table.text), default=0) for index in range(len(table.columns))]
    align = "".join(
        "r" if column.kind != "text" else "p{6cm}" if length > 50 else "l"
        for column, length in zip(table.columns, longest, strict=True)
    )
    body = []
    for line in table.text:
        cells = [
            tex_number(cell) if cell.startswith("−") or (column.kind == "p" and cell != "-") else tex_text(cell)
            for cell, column in zip(line, table.columns, strict=True)
        ]
        body.append("    " + " & ".join(cells) + r" \\")
    notes = (f"{note[:1].upper()}{note[1:]}.".replace("..", ".") for note in table.notes)
    caption = " ".join([f"{table.title}.", table.full_caption, *notes, table.source_line])
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{tex_text(caption)}}}",
            rf"  \label{{tab:{table.name}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            "    " + " & ".join(tex_text(column.title) for column in table.columns) + r" \\",
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def write_pages(folder: Path, intro: Sequence[str], models: Sequence[ModelTables], figures: str) -> None:
    """Writes paper/tables: each table in three formats, and README.md with all tables and figures.

    Args:
        folder: replaced as a whole, so that no table of an earlier run stays.
        intro: the opening paragraphs in Markdown, the title first.
        figures: the folder with a folder of figures for each model, as the README names it.
    """
    tables = side_by_side(models)
    with atomic_dir(folder) as made:
        for table in tables:
            write_text(made / f"{table.name}.csv", to_csv(table))
            write_text(made / f"{table.name}.md", to_md(table))
            write_text(made / f"{table.name}.tex", to_tex(table))
        write_text(made / "README.md", readme(intro, tables, models, figures))


MOST_ROWS = 100  # of a table that README.md shows; longer ones are linked


def readme(intro: Sequence[str], tables: Sequence[Table], models: Sequence[ModelTables], figures: str) -> str:
    """README.md: the opening, a list of contents, the tables and the figures."""
    contents = [f"- [{table.title}](#{_anchor(table.title)})" for table in tables]
    parts = [*intro, "\n".join([*contents, "- [Figures](#figures)"])]
    for table in tables:
        files = " · ".join(f"[.{kind}]({table.name}.{kind})" for kind in ("csv", "md", "tex"))
        if len(table.rows) > MOST_ROWS:
            link = f"{len(table.rows)} rows: [{table.name}.md]({table.name}.md)"
            page = f"## {table.title}\n\n{table.full_caption}\n\n{link}"
        else:
            page = to_md(table, level=2).rstrip("\n")
        parts += [page, f"As files: {files}"]
    parts.append("## Figures")
    for one in models:
        for figure in one.figures:
            parts += [f"![{figure.alt}]({figures}/{one.model}/{figure.file})", f"`{one.model}`: {figure.caption}"]
    return "\n\n".join(parts) + "\n"


def _anchor(title: str) -> str:
    """The anchor that GitHub and GitLab give a heading."""
    return "".join(char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_")
