"""Tables as .csv, .md and .tex, and the README that collects them: the one place that formats a number (all tables).

The .csv holds nine significant digits; .md and .tex round by the column's kind. `-` is a cell without a defined value.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tli.io.files import atomic_dir, write_text
from tli.io.structured import nine_digits
from tli.paper.rows import Measured

Kind = Literal["text", "count", "similarity", "change", "score", "percent", "points", "number", "t", "p"]
Cell = str | int | float | None


class Column(NamedTuple):
    """A column: its name in the .csv, its title elsewhere, and how its numbers are shown."""

    key: str
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table and what must be said with it: what, view, set and n in the caption; `view` unless a column gives it."""

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    view: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.view and "view" not in [column.key for column in self.columns]:
            raise ValueError(f"table {self.name}: no cell without its view: give a column `view` or the table's view")
        unknown = {key for row in self.rows for key in row} - {column.key for column in self.columns}
        if unknown:
            raise ValueError(f"table {self.name}: cells without a column: {', '.join(sorted(unknown))}")

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows in the columns' order; a cell that a row does not give is None."""
        return [[row.get(column.key) for column in self.columns] for row in self.rows]

    @property
    def remarks(self) -> list[str]:
        """The notes, each once, without the empty ones."""
        return [note for note in dict.fromkeys(self.notes) if note]


class Made(NamedTuple):
    """A table and the values of it that `verify` reads, by flat key."""

    table: Table
    measured: Measured


class Figure(NamedTuple):
    """A figure's file name without its folder, what it shows, and the same for who cannot see it."""

    file: str
    caption: str
    alt: str


def shown(value: Cell, kind: Kind) -> str:
    """A value as a reader sees it.

    similarity: 4 decimals, 6 from .999 on; change: the same with sign; score: 3 decimals; percent and points: 1;
    t: 2; number: 4 significant digits; p: takes log10 p, 4 decimals down to 1e-4, then mantissa and exponent.
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError(f"a table's value must be finite, got {value}")
    if kind == "p":
        return _p(value)
    places = {"score": 3, "percent": 1, "points": 1, "t": 2}
    if kind in ("similarity", "change"):
        text = f"{value:.{6 if 0.999 <= abs(value) < 1 else 4}f}"
    elif kind in places:
        text = f"{value:.{places[kind]}f}"
    elif kind == "count" or isinstance(value, int):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    if not float(text.replace(",", "")):
        text = text.removeprefix("-")
    sign = "+" if kind in ("change", "points") and not text.startswith("-") and float(text.replace(",", "")) else ""
    return sign + text


def _p(log10: float) -> str:
    """p from its logarithm, which stays finite where p underflows."""
    if log10 >= -4:
        return f"{10**log10:.4f}"
    exponent = math.floor(log10)
    mantissa = round(10 ** (log10 - exponent), 2)
    if mantissa >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    return f"{mantissa:.2f}e{exponent}"


def to_csv(table: Table) -> str:
    """Full precision; the table's view is a last column where no column gives it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    extra = [table.view] if table.view else []
    writer.writerow([*(column.key for column in table.columns), *(["view"] if extra else [])])
    for row in table.cells:
        cells = ["-" if cell is None else cell if isinstance(cell, str) else nine_digits(cell) for cell in row]
        writer.writerow([*cells, *extra])
    return text.getvalue()


def _lines(table: Table) -> list[list[str]]:
    return [[shown(cell, column.kind) for cell, column in zip(row, table.columns, strict=True)] for row in table.cells]


def _under(table: Table) -> list[str]:
    """What stands with the table: the caption, the view where it is one for all."""
    return [table.caption, *([f"View: {table.view}."] if table.view else [])]


def to_md(table: Table, level: int = 1) -> str:
    """A GitHub table under a heading, the caption above and the notes below."""
    head = [column.title.replace("|", "\\|") for column in table.columns]
    rule = [":--" if column.kind == "text" else "--:" for column in table.columns]
    body = [
        [
            f"−{cell[1:]}" if _negative(cell, column) else cell.replace("|", "\\|")
            for cell, column in zip(line, table.columns, strict=True)
        ]
        for line in _lines(table)
    ]
    grid = ["| " + " | ".join(line) + " |" for line in [head, rule, *body]]
    notes = [f"- {note}" for note in table.remarks]
    parts = [f"{'#' * level} {table.title}", " ".join(_under(table)), "\n".join(grid), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _negative(cell: str, column: Column) -> bool:
    """A negative number, whose hyphen becomes a minus sign."""
    return column.kind != "text" and len(cell) > 1 and cell.startswith("-")


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
    mantissa, _, exponent = number.partition("e")
    return f"${mantissa}$" if not exponent else rf"${mantissa}\times 10^{{{exponent}}}$"


def to_tex(table: Table) -> str:
    """A booktabs table with caption and label; needs the packages booktabs, amssymb and graphicx."""
    lines = _lines(table)
    longest = [max((len(line[index]) for line in lines), default=0) for index in range(len(table.columns))]
    align = "".join(
        "r" if column.kind != "text" else "p{6cm}" if long > 50 else "l"
        for column, long in zip(table.columns, longest, strict=True)
    )
    body = []
    for line in lines:
        cells = [
            tex_number(cell) if _negative(cell, column) or (column.kind == "p" and cell != "-") else tex_text(cell)
            for cell, column in zip(line, table.columns, strict=True)
        ]
        body.append("    " + " & ".join(cells) + r" \\")
    caption = " ".join(
        [f"{table.title}.", *_under(table), *(f"{note[:1].upper()}{note[1:]}." for note in table.remarks)]
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{tex_text(caption.replace('..', '.'))}}}",
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


def write(folder: Path, intro: Sequence[str], tables: Sequence[Table], figures: Sequence[Figure], where: str) -> None:
    """Writes every table three times and README.md, which holds them all and shows the figures, into a new folder.

    Args:
        folder: replaced as a whole, so that no table of an earlier run stays.
        intro: the README's opening paragraphs, in Markdown, the title first.
        where: the figures' folder as the README names it.
    """
    with atomic_dir(folder) as made:
        for table in tables:
            write_text(made / f"{table.name}.csv", to_csv(table))
            write_text(made / f"{table.name}.md", to_md(table))
            write_text(made / f"{table.name}.tex", to_tex(table))
        contents = [f"- [{table.title}](#{_anchor(table.title)})" for table in tables]
        parts = [*intro, "\n".join([*contents, "- [Figures](#figures)"])]
        for table in tables:
            files = " · ".join(f"[.{kind}]({table.name}.{kind})" for kind in ("csv", "md", "tex"))
            parts += [to_md(table, level=2).rstrip("\n"), f"As files: {files}"]
        parts.append("## Figures")
        for figure in figures:
            parts += [f"![{figure.alt}]({where}/{figure.file})", figure.caption]
        write_text(made / "README.md", "\n\n".join(parts) + "\n")


def _anchor(title: str) -> str:
    """The anchor that GitHub and GitLab give a heading."""
    return "".join(char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_")
