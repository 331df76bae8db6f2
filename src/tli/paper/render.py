"""Tables as data, and what is generated from them: .csv, .md, .tex, the README (all tables).

A folder of tables holds tables.json: every table with its caption, columns, rows and notes, and the figures. Everything
else that shows a table reads it (`read`); nothing parses the generated files. This is the one place that formats a
number: `shown` rounds by the column's kind, the .csv holds nine significant digits. `-` stands for an undefined value.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tli.io.errors import UserError
from tli.io.files import atomic_dir, write_text
from tli.io.structured import nine_digits, read_json, write_json
from tli.paper.rows import Measured
from tli.stats.p_values import BOUND, SMALLEST

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

    @property
    def full_caption(self) -> str:
        """The caption, and the view where it is one for all rows."""
        return " ".join([self.caption, *([f"View: {self.view}."] if self.view else [])])

    @property
    def lines(self) -> list[list[str]]:
        """The cells as a reader sees them, a minus sign for a hyphen."""
        return [
            [
                f"−{text[1:]}" if _negative(text, column) else text
                for text, column in zip(line, self.columns, strict=True)
            ]
            for line in _lines(self)
        ]

    def displayed(self) -> dict[str, Any]:
        """What a reader sees of the table, as JSON, for the paper and the report."""
        return {
            "title": self.title,
            "caption": self.full_caption,
            "columns": [
                {"key": column.key, "title": column.title, "number": column.kind != "text"} for column in self.columns
            ],
            "lines": self.lines,
            "notes": self.remarks,
        }

    def matching(self, **wanted: Cell) -> list[Mapping[str, Cell]]:
        """The rows with these cells."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def number(self, key: str, **wanted: Cell) -> float | None:
        """A number of the one row with these cells; None where the value is undefined.

        Raises:
            UserError: no row or several, or no such column.
        """
        rows = self.matching(**wanted)
        if len(rows) != 1 or key not in [column.key for column in self.columns]:
            cells = ", ".join(f"{name}={value}" for name, value in wanted.items())
            raise UserError(
                f"table {self.name}: expected one row with {cells} and a column {key}, got {len(rows)} rows; "
                "run `dvc repro`, which writes the tables again"
            )
        value = rows[0].get(key)
        return None if value is None else float(value)


class Made(NamedTuple):
    """A table and the values of it that `verify` reads, by flat key."""

    table: Table
    measured: Measured


class Figure(NamedTuple):
    """A figure's file name without its folder, what it shows, and the same for who cannot see it."""

    file: str
    caption: str
    alt: str


class Page(NamedTuple):
    """A folder of tables: its opening paragraphs in Markdown (the title first), its tables and its figures.

    `bases` counts the bases of a full grid; `revision` is set where the tables come from an earlier revision.
    """

    intro: Sequence[str]
    tables: Mapping[str, Table]
    figures: Sequence[Figure]
    bases: str = ""
    revision: str = ""


def shown(value: Cell, kind: Kind) -> str:
    """A value as a reader sees it.

    similarity: 4 decimals, 6 from .999 on; change: the same with sign; score: 3 decimals; percent and points: 1;
    t: 2; number: 4 significant digits; p: 4 decimals down to 1e-4, then mantissa and exponent.
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


def _p(p: float) -> str:
    """`0.0123`, `1.23e-5`, or `≤1.00e-300` where p was clipped, so that it is a bound."""
    if p >= 1e-4:
        return f"{p:.4f}"
    mantissa, exponent = f"{max(p, SMALLEST):.2e}".split("e")
    return f"{'≤' if p < BOUND else ''}{mantissa}e{int(exponent)}"


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


def to_md(table: Table, level: int = 1) -> str:
    """A GitHub table under a heading, the caption above and the notes below."""
    head = [column.title.replace("|", "\\|") for column in table.columns]
    rule = [":--" if column.kind == "text" else "--:" for column in table.columns]
    body = [[cell.replace("|", "\\|") for cell in line] for line in table.lines]
    grid = ["| " + " | ".join(line) + " |" for line in [head, rule, *body]]
    notes = [f"- {note}" for note in table.remarks]
    parts = [f"{'#' * level} {table.title}", table.full_caption, "\n".join(grid), "\n".join(notes)]
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
    mantissa, _, exponent = number.replace("≤", r"\leq ").partition("e")
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
        [f"{table.title}.", table.full_caption, *(f"{note[:1].upper()}{note[1:]}." for note in table.remarks)]
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


FILE = "tables.json"


def write(folder: Path, page: Page, where: str) -> None:
    """Writes tables.json, every table in three formats and README.md, which holds them all, into a new folder.

    Args:
        folder: replaced as a whole, so that no table of an earlier run stays.
        where: the figures' folder as the README names it.
    """
    with atomic_dir(folder) as made:
        write_json(made / FILE, to_json(page))
        page = read(made)  # the numbers as they are stored, so that every format rounds the same ones
        for table in page.tables.values():
            write_text(made / f"{table.name}.csv", to_csv(table))
            write_text(made / f"{table.name}.md", to_md(table))
            write_text(made / f"{table.name}.tex", to_tex(table))
        write_text(made / "README.md", readme(page, where))


def readme(page: Page, where: str) -> str:
    """README.md: the opening, a list of contents, every table and figure."""
    contents = [f"- [{table.title}](#{_anchor(table.title)})" for table in page.tables.values()]
    parts = [*page.intro, "\n".join([*contents, "- [Figures](#figures)"])]
    for table in page.tables.values():
        files = " · ".join(f"[.{kind}]({table.name}.{kind})" for kind in ("csv", "md", "tex"))
        parts += [to_md(table, level=2).rstrip("\n"), f"As files: {files}"]
    parts.append("## Figures")
    for figure in page.figures:
        parts += [f"![{figure.alt}]({where}/{figure.file})", figure.caption]
    return "\n\n".join(parts) + "\n"


def to_json(page: Page) -> dict[str, Any]:
    """The page as JSON: rows as lists in the columns' order."""
    return {
        "intro": page.intro,
        "bases": page.bases,
        "revision": page.revision,
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "caption": table.caption,
                "view": table.view,
                "columns": [column._asdict() for column in table.columns],
                "rows": table.cells,
                "notes": table.remarks,
            }
            for table in page.tables.values()
        ],
        "figures": [figure._asdict() for figure in page.figures],
    }


def read(folder: Path) -> Page:
    """The page in `folder`/tables.json.

    Raises:
        UserError: the file is missing or has another form.
    """
    file = folder / FILE
    found = read_json(file, "tables as `dvc repro` writes them")
    try:
        tables = [from_json(each) for each in found["tables"]]
        figures = [Figure(**each) for each in found["figures"]]
        return Page(found["intro"], {t.name: t for t in tables}, figures, found["bases"], found["revision"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: expected tables as `dvc repro` writes them, got {error!r}; run `dvc repro`") from None


def from_json(found: Mapping[str, Any]) -> Table:
    """A table of tables.json."""
    columns = [Column(**column) for column in found["columns"]]
    rows = [
        {column.key: value for column, value in zip(columns, row, strict=True) if value is not None}
        for row in found["rows"]
    ]
    texts = {key: found[key] for key in ("name", "title", "caption", "view", "notes")}
    return Table(columns=columns, rows=rows, **texts)


def _anchor(title: str) -> str:
    """The anchor that GitHub and GitLab give a heading."""
    return "".join(char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_")
