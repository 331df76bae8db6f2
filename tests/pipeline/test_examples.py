"""What takes minutes of the smoke pipeline: the worked examples of docs/change-it.md, and a second clean run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_pipeline import EXAMPLES, runs_what_it_says

from checkout import Checkout


@pytest.fixture
def copy(done: Checkout, tmp_path: Path) -> Checkout:
    """The finished run, to be changed at will."""
    shutil.copytree(done.root, tmp_path / "project", symlinks=True)
    return Checkout(tmp_path / "project")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ("A rank", "A language")])
def test_a_worked_example_runs_what_it_says(copy: Checkout, name: str) -> None:
    """Another rank: test_pipeline.py. A language, which fetches: test_profiles.py."""
    runs_what_it_says(copy, name)


def test_two_clean_runs_give_the_same_bytes(done: Checkout, tmp_path: Path) -> None:
    """A git clone of where the first run began, with nothing of its cache: rows, models, tables, figures, dvc.lock."""
    done("git", "clone", "-q", str(done.root), str(tmp_path / "project"))
    again = Checkout(tmp_path / "project")
    again("git", "checkout", "-q", "HEAD~1")
    again("dvc", "pull", "-q", "data.dvc")
    again("dvc", "repro")
    first, second = (checkout.digests("build", "results", "paper") for checkout in (done, again))
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == set()
    assert (done.root / "dvc.lock").read_bytes() == (again.root / "dvc.lock").read_bytes()
