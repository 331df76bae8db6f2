"""A folder of generated tables, read back: each cell as a reader sees it and in full (the document, the report).

`render.write` leaves a page README.md, which holds every table as shown and the figures, and a .csv a table, which
holds its keys and nine significant digits. What the document prints is the page's text: a number is rounded once.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tli.io.errors import UserError
from tli.io.files import read_text
from tli.paper.render import Figure


class Heading(NamedTuple):
    """A column: its key in the .csv, its title, and whether it holds numbers."""

    key: str
    title: str
    number: bool


@dataclass(frozen=True)
class Collected:
    """A table as it was written: `lines` as shown, `values` in full, row by row in the columns' order."""

    name: str
    title: str
    caption: str
    columns: tuple[Heading, ...]
    lines: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def rows(self, **wanted: str) -> Iterator[dict[str, str]]:
        """The rows whose cells read so, as key -> the value in full; a value without definition is `-`."""
        for row in self.values:
            cells = dict(zip((column.key for column in self.columns), row, strict=True))
            if all(cells.get(key) == text for key, text in wanted.items()):
                yield cells

    def number(self, key: str, **wanted: str) -> float | None:
        """A cell of the one row whose cells read so; None where the value has no definition.

        Raises:
            UserError: no row or several, or no such column.
        """
        rows = [*self.rows(**wanted)]
        if len(rows) != 1 or key not in rows[0]:
            cells = ", ".join(f"{name}={text}" for name, text in wanted.items())
            raise UserError(
                f"table {self.name}: expected one row with {cells} and a column {key}, got {len(rows)} rows; "
                "run `dvc repro`, which writes the tables again"
            )
        return None if rows[0][key] == "-" else float(rows[0][key])


class Page(NamedTuple):
    """The opening paragraphs, the tables and the figures of a folder, in the page's order."""

    intro: tuple[str, ...]
    tables: Mapping[str, Collected]
    figures: tuple[Figure, ...]


def read(folder: Path) -> Page:
    """Reads `folder`/README.md and the .csv files that it names.

    Raises:
        UserError: the page is missing, or a table of it and its .csv are not of one shape.
    """
    page = folder / "README.md"
    if not page.is_file():
        raise UserError(f"{page}: expected the tables' page, found no file; run `dvc repro`")
    opening, *sections = re.split(r"^## ", read_text(page), flags=re.M)
    tables = [_table(folder, section) for section in sections if not section.startswith("Figures\n")]
    figures = re.findall(r"^!\[(.*)\]\((.*)\)\n\n(.*)$", sections[-1] if sections else "", re.M)
    return Page(
        tuple(opening.strip().split("\n\n")[1:-1]),  # without the title and the list of contents
        {table.name: table for table in tables},
        tuple(Figure(Path(file).name, caption, alt) for alt, file, caption in figures),
    )


def bases(page: Page) -> str:
    """The opening paragraph that counts the bases of a full grid's page; empty where the page has none."""
    return next((paragraph for paragraph in page.intro if re.match(r"\d+ bases ", paragraph)), "")


def earlier_revision(page: Page) -> str:
    """The revision that the page's tables come from, where its opening says that this is an earlier one; else empty."""
    revisions = (re.match(r"\*\*From an earlier revision \((\w+)\)", paragraph) for paragraph in page.intro)
    return next((match[1] for match in revisions if match), "")


def _table(folder: Path, section: str) -> Collected:
    title, caption, grid, *rest = section.strip().split("\n\n")
    link = re.search(r"\[\.csv\]\((.+)\.csv\)", rest[-1])
    if link is None:
        raise UserError(f"{folder / 'README.md'}: {title}: expected links to its files; run `dvc repro`")
    head, rule, *body = ([_plain(cell) for cell in _cells(line)] for line in grid.splitlines())
    path = folder / f"{link[1]}.csv"
    keys, *values = csv.reader(read_text(path).splitlines())
    width = len(head)  # the .csv may have the table's view as one more column
    shape = (len(body), {width})
    if not body:
        shape = (0, set())
    if len(keys) - width not in (0, 1) or (len(values), {len(line) for line in body}) != shape:
        raise UserError(
            f"{path}: expected {width} columns and {len(body)} rows as on the page, got {len(keys)} and {len(values)}; "
            "run `dvc repro`"
        )
    return Collected(
        name=link[1],
        title=title,
        caption=caption,
        columns=tuple(
            Heading(key, name, mark == "--:") for key, name, mark in zip(keys[:width], head, rule, strict=True)
        ),
        lines=tuple(map(tuple, body)),
        values=tuple(tuple(row[:width]) for row in values),
        notes=tuple(line.removeprefix("- ") for part in rest[:-1] for line in part.splitlines()),
    )


def _cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, whose own bars are escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _plain(cell: str) -> str:
    return cell.replace("\\|", "|")
