"""docs/reliability.md: what holds under faults, the test that holds it, and how often that test tried (`make soak`).

Every figure on the page is one that a test recorded, after its assertions, in the file that TLI_FIGURES named; every
sentence is the first of that test's own docstring. A test that was skipped or failed recorded nothing and is not shown.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

from tli.io.errors import UserError
from tli.io.files import read_text, write_text
from tli.io.receipts import revision
from tli.io.structured import read_json


def run(figures: Path, tests: Path, audit: Path, out: Path) -> None:
    """Writes the page `out`.

    Args:
        figures: a JSON object a line, `promise` (tests/FILE::FUNCTION), `figure` and `value`; values of one promise and
            figure add up.
        tests: the folder of the tests that recorded them.
        audit: what `tli sbom` said of known vulnerabilities.

    Raises:
        UserError: the file of figures is empty or not of this form, or names a test that is not there.
    """
    counted: dict[str, Counter[str]] = {}
    for number, line in enumerate(read_text(figures).splitlines(), start=1):
        try:
            found = json.loads(line)
            counted.setdefault(found["promise"], Counter())[found["figure"]] += int(found["value"])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{figures}:{number}: expected an object of promise, figure and value, got {line[:80]}; run `make soak`"
            ) from None
    if not counted:
        raise UserError(f"{figures}: expected the figures of `make soak`, found none; run it")
    text = [
        "# Reliability",
        "",
        "Written by `make soak`: what holds, the test that would fail if it did not, and how often that test tried."
        " `make test` runs the same tests with fewer tries. What could not be tried is not listed.",
        "",
        f"Written at commit {revision()[:12]}. The locked packages: {read_json(audit)['said']}.",
    ]
    for file in dict.fromkeys(promise.partition("::")[0] for promise in counted):
        module = _parsed(tests.parent / file)
        text += ["", f"## {_first(module)}", "", "| what holds | test | tried |", "|---|---|---|"]
        for promise, values in counted.items():
            if promise.partition("::")[0] == file:
                name = promise.rpartition("::")[2]
                tried = "; ".join(f"{value:,} {figure}" for figure, value in values.items())
                text.append(f"| {sentence(module, name, file)} | [{name}](../{file}) | {tried} |")
    write_text(out, "\n".join([*text, ""]))


def sentence(module: ast.Module, name: str, file: str) -> str:
    """What a test holds: the first line of its docstring, or its name where it has none."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (_first(node) or f"{name.removeprefix('test_').replace('_', ' ').capitalize()}.").replace("|", "\\|")
    raise UserError(f"{file}::{name}: no such test; run `make soak` again")


def _parsed(path: Path) -> ast.Module:
    return ast.parse(read_text(path))


def _first(node: ast.Module | ast.FunctionDef) -> str:
    """The first line of a docstring, with the lines that go on its sentence."""
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
