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
from tli.analysis.render import read_model
from tli.io.files import sha256_of


def examples() -> dict[str, tuple[str, set[str]]]:
    """Section -> the commands of its first block and the stages that it says run, from docs/change-it.md.

    The section on languages fetches: tests/pipeline/test_profiles.py runs it.
    """
    text = (ROOT / "docs" / "change-it.md").read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        commands = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)[0]
        (said,) = re.findall(r"^Runs: (.*)\.$", section, re.M)
        found[section.split("\n", 1)[0]] = commands, set(said.split(", "))
    return found


EXAMPLES = examples()
AFTER = {"verify", "pages", "paper", "report-data", "report"}  # the stages after `tables`


@pytest.fixture
def copy(done: Checkout, tmp_path: Path) -> Checkout:
    """The finished run, to be changed at will."""
    shutil.copytree(done.root, tmp_path / "project", symlinks=True)
    return Checkout(tmp_path / "project")


def test_the_data_is_the_working_tree_s(done: Checkout) -> None:
    """The remote in the repository, data.dvc and data/ agree, so that a clone computes what is computed here."""
    mine = {path.relative_to(ROOT): path for path in (ROOT / "data").rglob("*") if path.is_file()}
    theirs = {path.relative_to(done.root): path for path in (done.root / "data").rglob("*") if path.is_file()}
    assert {name: sha256_of(path) for name, path in mine.items()} == {
        name: sha256_of(path) for name, path in theirs.items()
    }


def test_the_run_leaves_every_table_and_a_clean_tree(done: Checkout) -> None:
    lock = YAML(typ="safe", pure=True).load((done.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    for name, stage in lock.items():
        for out in stage["outs"]:
            assert (done.root / out["path"]).exists(), f"{name} says it wrote {out['path']}"
    tables = done.root / "paper" / "tables"
    names = {path.stem for path in tables.glob("*.csv")}
    assert names
    for suffix in (".md", ".tex"):
        assert names <= {path.stem for path in tables.glob(f"*{suffix}")}
    page = (tables / "README.md").read_text(encoding="utf-8")
    assert all(re.search(rf"\b{re.escape(name)}\b", page) for name in names)
    assert list((done.root / "paper" / "figures" / done.model).glob("*.svg"))
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


def test_the_page_of_examples_has_all_that_it_promises() -> None:
    assert [*EXAMPLES] == ["A rank", "A layer", "A model", "A word list", "A language"]


def runs_what_it_says(copy: Checkout, name: str) -> None:
    """Runs an example of docs/change-it.md as it stands there; a terminal of 120 columns shows what came of it."""
    commands, expected = EXAMPLES[name]
    before = copy.digests("build")
    output = copy("bash", "-e", "-c", commands)
    assert copy.ran(output) - {"check"} == expected
    after = copy.digests("build")
    assert after != before
    if name == "A rank":
        assert not {"base-rows", "scan", "sweep-train", "sweep-score"} & copy.ran(output)
        kept = ("base-rows/", "scan.tsv", "sweep/")
        untouched = {path for path in before if path.startswith(tuple(f"build/{copy.model}/{out}" for out in kept))}
        assert {path: after[path] for path in untouched} == {path: before[path] for path in untouched}
    if "tables" in expected:
        assert "Ran experiment" in output
        assert max(map(len, copy("dvc", "exp", "diff").splitlines())) <= 120
        shown = copy("dvc", "exp", "diff", "--all")  # of so few items some numbers stay as they were
        for metric in ("gain", "random", "p1", "copa_en", "copa_sw", "nli_en", "nli_sw"):
            assert re.search(rf"^results/{copy.model}/headline\.json +{metric} ", shown, re.M), shown


def test_another_rank_runs_what_the_example_says(copy: Checkout) -> None:
    """The other examples: test_examples.py."""
    runs_what_it_says(copy, "A rank")


def test_a_change_of_the_statistics_runs_no_model(copy: Checkout) -> None:
    output = copy("dvc", "exp", "run", "-S", "stats.confidence=0.9")
    assert copy.ran(output) - {"check"} == {"tables", *AFTER}


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
        (set_by_experiment("models=[nowhere]"), "params.yaml: models: expected names of models"),
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
    assert lost <= {"build/checked"}, "only the constant that `check` writes may go"


def test_a_rank_taken_from_the_sweep_leaves_the_tables(copy: Checkout) -> None:
    sweep = copy.params()["sweep"]
    assert isinstance(sweep, dict)
    *kept, removed = sweep["ranks"]
    copy.edit(f"\n  ranks: [{', '.join(map(str, sweep['ranks']))}]", f"\n  ranks: [{', '.join(map(str, kept))}]")
    table = copy.root / "paper" / "tables" / "ranks.csv"

    def told() -> tuple[set[str], set[str]]:
        """The ranks in the rank sweep's table, and in what verify reads."""
        with table.open(encoding="utf-8", newline="") as file:
            rows = {row["rank"] for row in csv.DictReader(file)}
        written = read_model(copy.root / "results" / copy.model / "tables.json").tables
        return rows, {str(row["rank"]) for name in ("ranks", "changes") for row in written[name].rows}

    assert all(str(removed) in ranks for ranks in told())
    assert copy.ran(copy("dvc", "repro")) <= {"check", "tables", *AFTER}
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
    alone = {"sweep-train@microworld-1", "sweep-score@microworld-1"}
    after = {"tables@microworld", "verify@microworld", "pages", "paper", "report-data@microworld", "report"}
    assert ran - {"check"} == alone | after
