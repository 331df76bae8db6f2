"""The whole DAG, by the real `dvc`, on tests/smoke/params.yaml in a copy of the checkout: what a user does and sees."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from checkout import Checkout
from tiny import ROOT
from tli import store

# what follows from lora.rank
PER_RANK = {"train", "align", "transfer", "probe", "project", "tables", "verify", "paper", "report"}


@pytest.fixture
def copy(done: Checkout, tmp_path: Path) -> Checkout:
    """The finished run, to be changed at will."""
    shutil.copytree(done.root, tmp_path / "project", symlinks=True)
    return Checkout(tmp_path / "project")


def test_the_data_is_the_working_tree_s(done: Checkout) -> None:
    """The remote in the repository, data.dvc and data/ agree, so that a clone computes what is computed here."""
    mine = {path.relative_to(ROOT): path for path in (ROOT / "data").rglob("*") if path.is_file()}
    theirs = {path.relative_to(done.root): path for path in (done.root / "data").rglob("*") if path.is_file()}
    assert {name: store.sha256(path) for name, path in mine.items()} == {
        name: store.sha256(path) for name, path in theirs.items()
    }


def test_the_run_leaves_every_table_and_a_clean_tree(done: Checkout) -> None:
    lock = YAML(typ="safe", pure=True).load((done.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    for name, stage in lock.items():
        for out in stage["outs"]:
            assert (done.root / out["path"]).exists(), f"{name} says it wrote {out['path']}"
    tables = done.root / "paper" / "tables" / done.profile
    names = {path.stem for path in tables.glob("*.csv")}
    assert names
    for suffix in (".md", ".tex"):
        assert names <= {path.stem for path in tables.glob(f"*{suffix}")}
    page = (tables / "README.md").read_text(encoding="utf-8")
    assert all(re.search(rf"\b{re.escape(name)}\b", page) for name in names)
    assert list((done.root / "paper" / "figures" / done.profile).glob("*.svg"))
    assert done("git", "status", "--porcelain") == ""


def test_a_second_run_does_nothing(done: Checkout) -> None:
    before = done.digests("build", "results", "paper")
    output = done("dvc", "repro")
    assert done.ran(output) == set()
    assert "Data and pipelines are up to date." in output
    assert done("dvc", "status", "--json").strip() == "{}"
    assert done.digests("build", "results", "paper") == before


def test_push_carries_the_data_and_nothing_else(copy: Checkout) -> None:
    before = copy.digests(".dvc/remote")
    copy("dvc", "push", "-q")
    assert copy.digests(".dvc/remote") == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("lora.rank=3", PER_RANK),
        ("train.layer=3", PER_RANK | {"sweep-train", "sweep-eval"}),
        ("stats.confidence=0.9", {"tables", "verify", "paper", "report"}),
    ],
)
def test_an_experiment_redoes_what_depends_on_it(copy: Checkout, change: str, expected: set[str]) -> None:
    before = copy.digests("build", "paper")
    output = copy("dvc", "exp", "run", "-S", change)
    assert copy.ran(output) - {"check"} == expected
    assert "Ran experiment" in output
    assert copy.digests("build", "paper") != before
    assert copy.profile in copy("dvc", "exp", "show", "--csv")


def set_in_file(old: str, new: str) -> Callable[[Checkout], str]:
    def run(checkout: Checkout) -> str:
        checkout.edit(old, new)
        return checkout("dvc", "repro", ok=False)

    return run


def set_by_experiment(change: str) -> Callable[[Checkout], str]:
    return lambda checkout: checkout("dvc", "exp", "run", "-S", change, ok=False)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (set_in_file("  dropout: 0.05", "  dropout: 0.05\n  rnak: 8"), "params.yaml: lora.rnak: unknown key"),
        (set_in_file("margin: 0.4", "margin: wide"), "params.yaml: train.margin: expected a valid number, got 'wide'"),
        (set_by_experiment("lora.rank=0"), "params.yaml: lora.rank: expected greater than or equal to 1, got 0"),
        (set_by_experiment("lora.rank=4096"), "params.yaml: lora.rank: expected at most "),
        (set_by_experiment("train.layer=99"), "params.yaml: train.layer: expected 1 to "),
        (set_by_experiment("profile=nowhere"), "nowhere"),
    ],
)
def test_a_bad_value_is_one_line_and_loses_no_output(
    copy: Checkout, run: Callable[[Checkout], str], message: str
) -> None:
    before = copy.digests("build", "results", "paper")
    output = run(copy)
    assert "Traceback" not in output
    assert sum(message in line for line in output.splitlines()) >= 1, output
    assert copy.ran(output) <= {"check"}
    after = copy.digests("build", "results", "paper")
    lost = {name for name in before if after.get(name) != before[name]}
    assert lost <= {f"build/{done_profile(copy)}/checked"}, "only the constant that `check` writes may go"


def done_profile(checkout: Checkout) -> str:
    """The profile of the finished run, whatever params.yaml says now."""
    return next(path.name for path in (checkout.root / "build").iterdir() if path.is_dir())


def test_a_rank_taken_from_the_sweep_leaves_the_tables(copy: Checkout) -> None:
    sweep = copy.params()["sweep"]
    assert isinstance(sweep, dict)
    *kept, removed = sweep["ranks"]
    copy.edit(f"\n  ranks: [{', '.join(map(str, sweep['ranks']))}]", f"\n  ranks: [{', '.join(map(str, kept))}]")
    table = copy.root / "paper" / "tables" / copy.profile / "ranks.csv"

    def told() -> tuple[set[str], set[str]]:
        """The ranks in the rank sweep's table, and in what verify reads."""
        with table.open(encoding="utf-8", newline="") as file:
            rows = {row["rank"] for row in csv.DictReader(file)}
        measured = (copy.root / "results" / copy.profile / "measured.json").read_text(encoding="utf-8")
        return rows, set(re.findall(r"\br(\d+)\b", measured))

    assert all(str(removed) in ranks for ranks in told())
    assert copy.ran(copy("dvc", "repro")) <= {"check", "tables", "verify", "paper", "report"}
    for ranks in told():
        assert str(removed) not in ranks
        assert {str(rank) for rank in kept} <= ranks


def test_an_added_rank_runs_alone(copy: Checkout) -> None:
    sweep = copy.params()["sweep"]
    assert isinstance(sweep, dict)
    ranks = ", ".join(map(str, sweep["ranks"]))
    copy.edit(f"\n  ranks: [{ranks}]", f"\n  ranks: [{ranks}, 1]")
    output = copy("dvc", "repro")
    ran = set(re.findall(r"^Running stage '([^']+)'", output, re.M))
    assert ran - {"check"} == {"sweep-train@1", "sweep-eval@1", "tables", "verify", "paper", "report"}


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
