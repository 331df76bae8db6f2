"""The page of what holds under faults: its figures are what tests recorded, its promises tests that exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from scripts import script
from tiny import ROOT
from tli.io.errors import UserError

reliability = script("reliability")

PAGE = ROOT / "docs" / "reliability.md"
MODULE = '''"""What breaks."""

def test_b() -> None:
    """Nothing | breaks.

    More."""

def test_c_d() -> None: ...
'''


def page(folder: Path, *lines: tuple[str, str, int]) -> str:
    """The page of these figures, in a project of two tests."""
    (folder / "tests").mkdir()
    (folder / "tests" / "test_a.py").write_text(MODULE)
    (folder / "audit.json").write_text('{"said": "none known"}')
    named = [dict(zip(("promise", "figure", "value"), line, strict=True)) for line in lines]
    (folder / "figures").write_text("".join(json.dumps(line) + "\n" for line in named))
    reliability.write(folder / "figures", folder / "tests", folder / "audit.json", folder / "docs" / "page.md")
    return (folder / "docs" / "page.md").read_text()


def test_figures_of_one_test_add_up_under_its_own_words(tmp_path: Path) -> None:
    kills = [("tests/test_a.py::test_b", "kills survived", 20)] * 2
    text = page(
        tmp_path, *kills, ("tests/test_a.py::test_b", "flips found", 1), ("tests/test_a.py::test_c_d", "runs", 3)
    )
    assert "## What breaks." in text
    assert "| Nothing \\| breaks. | [test_b](../tests/test_a.py) | 40 kills survived; 1 flips found |" in text
    assert "| C d. | [test_c_d](../tests/test_a.py) | 3 runs |" in text
    assert "The locked packages: none known." in text


def test_a_test_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_e: no such test; run `make soak` again"):
        page(tmp_path, ("tests/test_a.py::test_e", "runs", 1))


@pytest.mark.parametrize("line", ["", "x", "[]", '{"promise": "a"}'])
def test_other_figures_are_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "figures").write_text(f"{line}\n" if line else "")
    with pytest.raises(UserError, match=r"figures.*: expected .*run"):
        reliability.write(tmp_path / "figures", ROOT / "tests", tmp_path / "audit.json", tmp_path / "page.md")


def test_every_promise_of_the_committed_page_is_a_test_in_its_own_words() -> None:
    pattern = r"^\| (.*) \| \[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\) \| (.+) \|$"
    rows = re.findall(pattern, PAGE.read_text("utf-8"), re.M)
    assert len(rows) > 10
    for said, name, file in ((said, name, file) for said, name, file, _ in rows):
        module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert said == reliability.sentence(module, name, file)
    assert sum(line.startswith("| ") for line in PAGE.read_text("utf-8").splitlines()) == len(rows) + PAGE.read_text(
        "utf-8"
    ).count("| property | test | tried |"), "a row without a test"
